// What RWKV-7 does between its projections and its recurrence, and after that: the contracts, and
// the programs that compute them.
//
//   log_decay = -0.606531 sigmoid(decay_base + decay)
//   rate'     = sigmoid(rate_base + rate)
//   read      = key read_scale, of unit norm per head;   write = read rate'
//   key'      = key (1 + (rate' - 1) rate_scale)
//   value'    = value + (first_value - value) sigmoid(value_base + value_mix)
//   strength  = sum over a head's channels of query key' bonus
//
//   output    = (group_norm(y) weight + bias + strength value) gate
//
// Types   streams and what is made of them of one type, bf16 or f32; parameters, log_decay (nats)
//         and strength f32; computed in f32 (f64 in the reference), rounded once
// Source  arXiv:2503.14456
#pragma once
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed {

/// A layer's parameters, f32. D = heads * width.
struct DeltaRuleParameters {
  Tensor decay_base, rate_base;  // [D]
  Tensor value_base;             // [D]; undefined: values are taken as they are
  Tensor read_scale;             // [D]: of the raw key, which makes the direction that is erased
  Tensor rate_scale;             // [D]: how far the rate weakens a key
  Tensor bonus;                  // [heads,width]
};

/// The projections, [B,T,D] in the activations' type.
struct DeltaRuleStreams {
  Tensor query, key, value;
  Tensor decay, rate;  // to each of which its base is added
  // Where value_base is given: what is added to it, and the first layer's values.
  Tensor value_mix = {}, first_value = {};
};

struct DeltaRuleGates {
  Tensor key, value, read, write;  // [B,T,D], the activations' type
  Tensor log_decay;                // [B,T,D] f32, nats
  Tensor strength;                 // [B,T,heads] f32: of the present value in the output

  std::vector<Tensor> tensors() const { return {key, value, read, write, log_decay, strength}; }
};

namespace kernels {

// About -exp(-1/2): bounds the log decay of a token.
inline constexpr double kDeltaDecayScale = -0.606531;
// What the norm of a direction is at least.
inline constexpr double kShortestDirection = 1e-12;

struct DeltaGatesInputs {
  DeltaRuleStreams streams;
  DeltaRuleParameters parameters;

  /// Calls f(name, tensor) for each tensor that is read, and may be undefined.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    auto& [query, key, value, decay, rate, value_mix, first_value] = in.streams;
    f("key", key), f("query", query), f("value", value), f("decay", decay), f("rate", rate);
    f("value_mix", value_mix), f("first_value", first_value);
    auto& [decay_base, rate_base, value_base, read_scale, rate_scale, bonus] = in.parameters;
    f("decay_base", decay_base), f("rate_base", rate_base), f("value_base", value_base);
    f("read_scale", read_scale), f("rate_scale", rate_scale), f("bonus", bonus);
  }
};

struct DeltaOutputInputs {
  Tensor y, value;      // [B,T,D]
  Tensor strength;      // [B,T,heads] f32
  Tensor gate;          // [B,T,D]
  Tensor weight, bias;  // [D] f32
  double eps = 0;

  /// Calls f(name, tensor) for each tensor that is read.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("y", in.y), f("value", in.value), f("strength", in.strength), f("gate", in.gate);
    f("weight", in.weight), f("bias", in.bias);
  }
};

// The programs. None checks its arguments or chooses another: src/ops/delta_rule.cpp does. Each
// `takes` reads shapes, types and strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool delta_gates_cpu_takes(const DeltaGatesInputs& in);
DeltaRuleGates delta_gates_cpu(const DeltaGatesInputs& in);
bool delta_output_cpu_takes(const DeltaOutputInputs& in);
Tensor delta_output_cpu(const DeltaOutputInputs& in);

/// ATen's operators: any device, differentiable.
bool delta_gates_aten_takes(const DeltaGatesInputs& in);
DeltaRuleGates delta_gates_aten(const DeltaGatesInputs& in);
bool delta_output_aten_takes(const DeltaOutputInputs& in);
Tensor delta_output_aten(const DeltaOutputInputs& in);

/// Our kernel, for heads of a multiple of four channels up to kWidestHead. No gradient.
bool delta_gates_cuda_takes(const DeltaGatesInputs& in);
DeltaRuleGates delta_gates_cuda(const DeltaGatesInputs& in);
bool delta_output_cuda_takes(const DeltaOutputInputs& in);
Tensor delta_output_cuda(const DeltaOutputInputs& in);

}  // namespace kernels
}  // namespace stuffed
