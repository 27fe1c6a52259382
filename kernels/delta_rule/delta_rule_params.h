// The delta rule's gates or its output as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

constexpr int kWidestHead = 128;  // channels: a warp, one group each

/// delta_rule.h: the gates, or the output where y_out is given. What is absent is null.
struct DeltaRuleParams {
  int64_t batch = 0, tokens = 0, heads = 0;
  int32_t width = 0;    // channels of a head, at most kWidestHead
  int32_t is_bf16 = 0;  // type of all rows and of what is made of them
  Rows query, key, value, decay, rate, value_mix, first_value;
  const float *decay_base = nullptr, *rate_base = nullptr, *value_base = nullptr,
              *read_scale = nullptr, *rate_scale = nullptr, *bonus = nullptr;  // [heads*width]
  void *key_out = nullptr, *value_out = nullptr, *read_out = nullptr, *write_out = nullptr;
  float *log_decay_out = nullptr, *strength_out = nullptr;  // [B,T,heads*width], [B,T,heads]
  // The output: value and
  Rows y, gate;
  const float* strength = nullptr;                 // [B,T,heads]
  const float *weight = nullptr, *bias = nullptr;  // [heads*width]
  float eps = 0;
  void* y_out = nullptr;
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t. Channels come in groups of
// kLayerChannels with rows aligned to them.
int32_t stuffed_delta_rule(const DeltaRuleParams* params, void* stream);
}

}  // namespace stuffed::kernels
