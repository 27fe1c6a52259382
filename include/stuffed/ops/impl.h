// The programs that compute an operation, by name.
#pragma once
#include <optional>
#include <string_view>

namespace stuffed {

/// Auto: chosen by what it is given. Chunked: the recurrence's, chosen among Step, Tiled and Aten. All
/// others are programs: Reference is the specification in plain loops, Fast runs on a CPU without a
/// gradient, Aten runs on any device and has a gradient. Which of them an operation has, its row says
/// (ops/op.h).
enum class Impl { Auto, Chunked, Reference, Step, Tiled, Aten, Cuda, Fast };

std::string_view impl_name(Impl impl);                   // "auto", "chunked", "reference", ...
std::optional<Impl> impl_called(std::string_view name);  // none if there is none of this name

}  // namespace stuffed
