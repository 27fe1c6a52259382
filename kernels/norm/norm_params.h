// A normalisation as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

constexpr int kWidestNorm = 8192;  // channels a part may have: 256 threads, eight groups each

/// y = act(normalise(x + skip * skip_weight)) over each of `parts` parts of a row.
struct NormParams {
  int64_t batch = 0, tokens = 0;
  int32_t parts = 1, width = 0;     // a row has parts * width channels
  int32_t is_bf16 = 0, y_bf16 = 0;  // type of x, gate and skip; of y
  int32_t centre = 0;               // 1: layer norm, 0: RMS norm
  int32_t gate_first = 0;           // silu(gate) multiplies before the norm, or after it
  Rows x, gate, skip;               // gate, skip: null if absent
  const float* weight = nullptr;    // [parts*width]; null: no norm at all
  const float* bias = nullptr;      // [parts*width] or null
  const float* skip_weight = nullptr;
  int32_t skip_width = 1;  // channels that share a skip weight
  float eps = 0;
  void* y = nullptr;  // [B,T,parts*width]
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t. Channels come in groups of
// kLayerChannels with rows aligned to them.
int32_t stuffed_norm(const NormParams* params, void* stream);
}

}  // namespace stuffed::kernels
