// Element types by the names that options and results give them.
#pragma once
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace stuffed {

/// "f32", "bf16", "f16", "f64"; LibTorch's name of any other.
std::string dtype_name(at::ScalarType dtype);

/// What --dtype asks for: "f32" or "bf16".
/// Errors  Usage for another name
at::ScalarType parse_dtype(std::string_view name);

}  // namespace stuffed
