#include "stuffed/ops/delta_rule.h"

#include <ATen/ATen.h>

#include "kernels/layer/layer_cuda.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"

namespace stuffed::ops {

namespace {

constexpr double kDecayScale = -0.606531;  // about -exp(-1/2): bounds the log decay of a token

Tensor wide(const Tensor& x) {
  return x.to(at::kFloat);
}

bool takes_heads(int64_t width) {
  return width % kernels::kLayerChannels == 0 && width <= kernels::kWidestHead;
}

bool takes_cuda(const DeltaRuleStreams& in, const DeltaRuleParameters& parameters) {
  const auto present = [&](const Tensor& x) { return x.defined() ? x : in.key; };
  return in.key.dim() == 3 && takes_heads(parameters.bonus.size(1)) &&
         kernels::layer_cuda_takes({in.query, in.key, in.value, in.decay, in.rate,
                                    present(in.value_mix), present(in.first_value)}) &&
         kernels::layer_cuda_takes_parameters({parameters.decay_base, parameters.rate_base,
                                               parameters.value_base, parameters.read_scale,
                                               parameters.rate_scale, parameters.bonus});
}

}  // namespace

DeltaRuleGates delta_rule_gates(const DeltaRuleStreams& in, const DeltaRuleParameters& parameters) {
  if (takes_cuda(in, parameters))
    return kernels::delta_rule_gates_cuda(in, parameters);
  const auto type = in.key.scalar_type();
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, parameters.bonus.sizes()); };
  const auto narrow = [&](const Tensor& x) { return x.flatten(-2).to(type); };
  const Tensor raw = wide(in.key);
  const Tensor rate = ops::sigmoid(wide(in.rate) + parameters.rate_base);
  const Tensor direction = to_heads(raw * parameters.read_scale);
  const Tensor read = direction / direction.norm(2, -1, /*keepdim=*/true).clamp_min(1e-12);
  const Tensor key = to_heads(raw * (1 + (rate - 1) * parameters.rate_scale));
  const Tensor omega = parameters.decay_base + wide(in.decay);
  Tensor value = in.value;
  if (parameters.value_base.defined())
    value = at::lerp(wide(value), wide(in.first_value),
                     ops::sigmoid(wide(in.value_mix) + parameters.value_base))
                .to(type);
  return {.key = narrow(key),
          .value = value,
          .read = narrow(read),
          .write = narrow(read * to_heads(rate)),
          .log_decay = kDecayScale * ops::sigmoid(omega),
          .strength = (to_heads(wide(in.query)) * key * parameters.bonus).sum(-1)};
}

Tensor delta_rule_output(const Tensor& y,
                         const Tensor& value,
                         const Tensor& strength,
                         const Tensor& gate,
                         const Tensor& weight,
                         const Tensor& bias,
                         double eps) {
  const int64_t heads = strength.size(-1);
  if (y.dim() == 3 && takes_heads(y.size(-1) / heads) &&
      kernels::layer_cuda_takes({y, value, gate}) &&
      kernels::layer_cuda_takes_parameters({strength, weight, bias}))
    return kernels::delta_rule_output_cuda(y, value, strength, gate, weight, bias, eps);
  const Tensor normal = wide(group_norm(y, heads, weight, bias, eps));
  const Tensor now = (strength.unsqueeze(-1) * wide(value).unflatten(-1, {heads, -1})).flatten(-2);
  return ((normal + now) * wide(gate)).to(y.scalar_type());
}

}  // namespace stuffed::ops
