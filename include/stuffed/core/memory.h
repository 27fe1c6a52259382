// Which errors mean that memory ran out.
#pragma once
#include <exception>

namespace stuffed {

/// LibTorch and oneDNN report a failed allocation on the CPU as an ordinary error whose text says
/// so, and the system a thread that cannot be made.
bool is_out_of_memory(const std::exception& error);

}  // namespace stuffed
