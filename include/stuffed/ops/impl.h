// The programs that compute the recurrence, by name.
#pragma once
#include <string_view>

namespace stuffed {

/// Auto: chosen by what it is given. Chunked: chosen among Step, Tiled and Aten. All others are
/// programs: Reference is the specification in plain loops, Aten runs on any device and has a
/// gradient.
enum class Impl { Auto, Chunked, Reference, Step, Tiled, Aten, Cuda };

std::string_view impl_name(Impl impl);   // "auto", "chunked", "reference", ...
Impl parse_impl(std::string_view name);  // throws Usage

}  // namespace stuffed
