// Normalisations, computed in f32 whatever the input's type and rounded once.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

/// x / sqrt(mean(x^2) + eps) * weight over the last axis. x [...,D]; weight [D] f32; result of type
/// `out`.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType out);

/// (x - mean) / sqrt(var + eps) * weight + bias over the last axis, biased variance. weight, bias
/// [D] f32.
Tensor layer_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, at::ScalarType out);

/// Layer norm over each of `groups` equal parts of the last axis, one weight and bias per channel;
/// x's type is kept. With a gate of x's shape and type, times silu(gate).
Tensor group_norm(const Tensor& x,
                  int64_t groups,
                  const Tensor& weight,
                  const Tensor& bias,
                  double eps,
                  const Tensor& gate = {});

/// x * weight past a recurrence: x [...,D] of y's type; weight [D], or [H] for D/H channels each,
/// f32.
struct Skip {
  Tensor x, weight;
};

/// Mamba-2's gate: rms_norm(y * silu(z)) with the mean taken over each of `groups` parts of the
/// last axis; with `norm_before_gate`, rms_norm(y) * silu(z). An undefined weight means no norm,
/// only the gate. With a skip, y + skip.x * skip.weight stands for y. y's type is kept. A y that is
/// moved here and shares its memory with no other tensor may be written over, and be the result.
Tensor gated_rms_norm(Tensor y,
                      const Tensor& z,
                      const Tensor& weight,
                      int64_t groups,
                      double eps,
                      bool norm_before_gate,
                      const Skip& skip = {});

}  // namespace stuffed::ops
