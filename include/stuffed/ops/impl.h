// The programs that compute an operation, by name.
#pragma once
#include <string_view>

namespace stuffed {

/// Auto: the operation chooses by what it is given. Chunked, of the recurrence: it chooses among
/// Step, Tiled and Aten. All others are programs: Reference is the specification in plain loops,
/// Aten runs on any device and has a gradient; which operation has which is said in its contract,
/// kernels/OP/OP.h.
enum class Impl { Auto, Chunked, Reference, Step, Tiled, Rows, Blocks, Aten, Cuda };

std::string_view impl_name(Impl impl);   // "auto", "chunked", "reference", ...
Impl parse_impl(std::string_view name);  // of the recurrence; throws Usage

}  // namespace stuffed
