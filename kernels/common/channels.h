// Rows of channels as device code sees them: pointers and strides, without any Torch type.
#pragma once
#include <cstdint>

namespace stuffed::kernels {

/// Element [b,t,c] lies at data + b*B + t*T + c elements. Null if absent.
struct Rows {
  const void* data = nullptr;
  int64_t b = 0, t = 0;
};

constexpr int kLayerChannels = 4;  // what a thread reads at a time: 8 bytes of bf16, 16 of f32

}  // namespace stuffed::kernels
