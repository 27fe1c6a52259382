// The gates of Mamba-2's mixer: a handful of ATen operators, which for one token on the CPU cost
// more than their arithmetic; there they are one loop.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

struct StepGates {
  Tensor dt;         // [B,T,H] f32
  Tensor log_decay;  // [B,T,H] f32, nats, <= 0
};

/// dt = clamp(softplus(raw + bias), least, most); log_decay = -dt exp(a_log).
///
/// Shapes  raw [B,T,H]; bias, a_log [H]
/// Types   raw bf16 or f32; all else f32
StepGates step_gates(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most);

}  // namespace stuffed::ops
