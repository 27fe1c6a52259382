// A map as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

/// What is done to every channel by itself. The last two are no kernel's.
enum class Map : int32_t {
  SiluProduct,     // y = silu(a) b
  SigmoidProduct,  // y = sigmoid(a) b
  ReluSquare,      // y = relu(a)^2
  NegativeExp,     // y = -exp(a + w)                                            y f32
  Softplus,        // y = log(1 + exp(a + w))                                    y f32
  ForgetGate,      // y = (1-w) sigmoid(-a), log_decay = log(1-y), f32; w absent: 0
  StepGates,       // y = clamp(log(1 + exp(a + w)), least, most), log_decay = -y exp(w2)  both f32
  ShiftMix,        // y = a + (a[t-1] - a) (w + b); a[-1] is `before`; b may be absent
  Silu,            // y = silu(a)
  Sigmoid,         // y = sigmoid(a)
};

struct MapParams {
  Map map = Map::SiluProduct;
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t is_bf16 = 0;  // type of a, b, before and, unless said above, y
  Rows a, b, before;
  const float *w = nullptr, *w2 = nullptr;  // [C]
  float least = 0, most = 0;
  void* y = nullptr;           // [B,T,C]
  float* log_decay = nullptr;  // [B,T,C], of ForgetGate and StepGates
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t. Channels come in groups of
// kLayerChannels with rows aligned to them.
int32_t stuffed_map(const MapParams* params, void* stream);
}

}  // namespace stuffed::kernels
