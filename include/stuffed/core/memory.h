// How much memory there is, and which errors mean that it ran out.
#pragma once
#include <cstdint>
#include <exception>

#include <c10/core/Device.h>

namespace stuffed {

/// LibTorch and oneDNN report a failed allocation on the CPU as an ordinary error whose text says
/// so, and the system a thread that cannot be made.
bool is_out_of_memory(const std::exception& error);

/// Bytes that this process can still take. Of a GPU what is free, and what LibTorch holds without
/// using it; on the CPU the least of what the system has, and of what the control group and the
/// limit on addresses leave.
int64_t free_memory_bytes(c10::Device device);

/// Gives back what LibTorch holds of a GPU without using it. Nothing on the CPU.
void release_unused_memory(c10::Device device);

}  // namespace stuffed
