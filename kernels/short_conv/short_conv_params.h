// A short convolution as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

struct ShortConvParams {
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t width = 0;    // taps, 2 to 4
  int32_t is_bf16 = 0;  // type of x, columns, y and next: bf16 or f32
  int32_t silu = 0;
  Rows x;
  const float* weight = nullptr;  // [C,W]
  const float* bias = nullptr;    // [C] or null
  const void* columns = nullptr;  // [B,C,W-1], the inputs before x, newest last
  void* y = nullptr;              // [B,T,C]
  void* next = nullptr;           // [B,C,W-1], the inputs before what follows x
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t. Channels come in groups of
// kLayerChannels with rows aligned to them.
int32_t stuffed_short_conv(const ShortConvParams* params, void* stream);
}

}  // namespace stuffed::kernels
