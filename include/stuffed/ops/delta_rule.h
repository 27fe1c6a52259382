// What RWKV-7 does between its projections and its recurrence, and after that: in f32, rounded
// once. One pass over memory each on a GPU, ATen operators elsewhere and under autograd.
// Source: arXiv:2503.14456.
#pragma once
#include "kernels/delta_rule/delta_rule.h"

namespace stuffed::ops {

///   log_decay = -0.606531 sigmoid(decay_base + decay)
///   rate'     = sigmoid(rate_base + rate)
///   read      = key read_scale, of unit norm per head;   write = read rate'
///   key'      = key (1 + (rate' - 1) rate_scale)
///   value'    = value + (first_value - value) sigmoid(value_base + value_mix)
///   strength  = sum over a head's channels of query key' bonus
DeltaRuleGates delta_rule_gates(const DeltaRuleStreams& in, const DeltaRuleParameters& parameters);

/// (group_norm(y) + strength value) gate. y, value, gate [B,T,D]; strength [B,T,heads] f32; weight,
/// bias [D] f32; y's type is kept.
Tensor delta_rule_output(const Tensor& y,
                         const Tensor& value,
                         const Tensor& strength,
                         const Tensor& gate,
                         const Tensor& weight,
                         const Tensor& bias,
                         double eps);

}  // namespace stuffed::ops
