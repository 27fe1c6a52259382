// RWKV-7's gates and outputs as ATen's operators, in f32: with a gradient, on any device.
#include <ATen/ATen.h>

#include "kernels/common/pieces.h"
#include "kernels/delta_rule/delta_rule.h"
#include "kernels/norm/norm.h"

namespace stuffed::kernels {

namespace {

Tensor in_f32(const Tensor& x) {
  return x.to(at::kFloat);
}

}  // namespace

bool delta_gates_aten_takes(const DeltaGatesInputs&) {
  return true;
}

DeltaRuleGates delta_gates_aten(const DeltaGatesInputs& inputs) {
  const DeltaRuleStreams& in = inputs.streams;
  const DeltaRuleParameters& parameters = inputs.parameters;
  const auto type = in.key.scalar_type();
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, parameters.bonus.sizes()); };
  const auto narrow = [&](const Tensor& x) { return x.flatten(-2).to(type); };
  const Tensor raw = in_f32(in.key);
  const Tensor rate = sigmoid_in_pieces(in_f32(in.rate) + parameters.rate_base);
  const Tensor direction = to_heads(raw * parameters.read_scale);
  const Tensor read =
      direction / direction.norm(2, -1, /*keepdim=*/true).clamp_min(kShortestDirection);
  const Tensor key = to_heads(raw * (1 + (rate - 1) * parameters.rate_scale));
  const Tensor omega = parameters.decay_base + in_f32(in.decay);
  Tensor value = in.value;
  if (parameters.value_base.defined())
    value = at::lerp(in_f32(value), in_f32(in.first_value),
                     sigmoid_in_pieces(in_f32(in.value_mix) + parameters.value_base))
                .to(type);
  return {.key = narrow(key),
          .value = value,
          .read = narrow(read),
          .write = narrow(read * to_heads(rate)),
          .log_decay = kDeltaDecayScale * sigmoid_in_pieces(omega),
          .strength = (to_heads(in_f32(in.query)) * key * parameters.bonus).sum(-1)};
}

bool delta_output_aten_takes(const DeltaOutputInputs&) {
  return true;
}

Tensor delta_output_aten(const DeltaOutputInputs& in) {
  const int64_t heads = in.strength.size(-1);
  const Tensor normal = in_f32(norm_aten({.x = in.y,
                                          .weight = in.weight,
                                          .bias = in.bias,
                                          .parts = heads,
                                          .centre = true,
                                          .eps = in.eps}));
  const Tensor now =
      (in.strength.unsqueeze(-1) * in_f32(in.value).unflatten(-1, {heads, -1})).flatten(-2);
  return ((normal + now) * in_f32(in.gate)).to(in.y.scalar_type());
}

}  // namespace stuffed::kernels
