// RWKV-6's mixes as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

constexpr int kShiftMixes = 5;         // RWKV-6's
constexpr int kShiftMixColumns = 128;  // channels come in multiples of it

/// y[m] = x + (x[t-1] - x) (share[m] + low[m] factor[m]), all rows bf16; x[-1] is `before`.
struct ShiftMixesParams {
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t rank = 0;                      // 16, 32 or 64
  Rows x, before;                        // 16-byte aligned
  const void* low = nullptr;             // [B,T,mixes,rank] bf16
  const void* factor = nullptr;          // [mixes,rank,C] bf16
  const float* share[kShiftMixes] = {};  // [C]
  void* y[kShiftMixes] = {};             // [B,T,C] bf16
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t.
int32_t stuffed_shift_mixes(const ShiftMixesParams* params, void* stream);
}

}  // namespace stuffed::kernels
