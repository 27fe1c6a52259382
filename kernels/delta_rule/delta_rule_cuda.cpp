// From tensors to the delta rule's kernels' parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/delta_rule/delta_rule.h"
#include "kernels/delta_rule/delta_rule_params.h"

namespace stuffed::kernels {

namespace {

bool takes_head(int64_t width) {
  return width % kLayerChannels == 0 && width <= kWidestHead;
}

}  // namespace

bool delta_gates_cuda_takes(const DeltaGatesInputs& inputs) {
  const DeltaRuleStreams& in = inputs.streams;
  const DeltaRuleParameters& parameters = inputs.parameters;
  return in.key.dim() == 3 && takes_head(parameters.bonus.size(1)) &&
         takes_cuda_rows(
             {in.query, in.key, in.value, in.decay, in.rate, in.value_mix, in.first_value}) &&
         takes_cuda_parameters({parameters.decay_base, parameters.rate_base, parameters.value_base,
                                parameters.read_scale, parameters.rate_scale, parameters.bonus});
}

bool delta_output_cuda_takes(const DeltaOutputInputs& in) {
  return in.y.dim() == 3 && takes_head(in.y.size(-1) / in.strength.size(-1)) &&
         takes_cuda_rows({in.y, in.value, in.gate}) &&
         takes_cuda_parameters({in.strength, in.weight, in.bias});
}

namespace {

/// Of rows [B,T,heads*width].
DeltaRuleParams delta_rule_params(const Tensor& rows, int64_t heads) {
  DeltaRuleParams p;
  p.batch = rows.size(0);
  p.tokens = rows.size(1);
  p.heads = heads;
  p.width = static_cast<int32_t>(rows.size(2) / heads);
  p.is_bf16 = rows.scalar_type() == at::kBFloat16;
  return p;
}

}  // namespace

DeltaRuleGates delta_gates_cuda(const DeltaGatesInputs& inputs) {
  const DeltaRuleStreams& in = inputs.streams;
  const DeltaRuleParameters& parameters = inputs.parameters;
  const CudaCall call(in.key);
  const int64_t heads = parameters.bonus.size(0);
  const auto rows = [&] { return at::empty(in.key.sizes(), in.key.options()); };
  const auto wide = in.key.options().dtype(at::kFloat);
  const bool mixes = parameters.value_base.defined();
  DeltaRuleGates out{.key = rows(),
                     .value = mixes ? rows() : in.value,
                     .read = rows(),
                     .write = rows(),
                     .log_decay = at::empty(in.key.sizes(), wide),
                     .strength = at::empty({in.key.size(0), in.key.size(1), heads}, wide)};
  DeltaRuleParams p = delta_rule_params(in.key, heads);
  p.query = rows_of(in.query);
  p.key = rows_of(in.key);
  p.value = rows_of(in.value);
  p.decay = rows_of(in.decay);
  p.rate = rows_of(in.rate);
  p.value_mix = rows_of(in.value_mix);
  p.first_value = rows_of(in.first_value);
  p.decay_base = floats_of(parameters.decay_base);
  p.rate_base = floats_of(parameters.rate_base);
  p.value_base = floats_of(parameters.value_base);
  p.read_scale = floats_of(parameters.read_scale);
  p.rate_scale = floats_of(parameters.rate_scale);
  p.bonus = floats_of(parameters.bonus);
  p.key_out = out.key.mutable_data_ptr();
  p.value_out = mixes ? out.value.mutable_data_ptr() : nullptr;
  p.read_out = out.read.mutable_data_ptr();
  p.write_out = out.write.mutable_data_ptr();
  p.log_decay_out = out.log_decay.mutable_data_ptr<float>();
  p.strength_out = out.strength.mutable_data_ptr<float>();
  call.check(cuda_kernels().delta_rule(&p, call.stream()), "delta_rule_gates");
  return out;
}

Tensor delta_output_cuda(const DeltaOutputInputs& in) {
  const CudaCall call(in.y);
  const Tensor out = at::empty(in.y.sizes(), in.y.options());
  DeltaRuleParams p = delta_rule_params(in.y, in.strength.size(-1));
  p.y = rows_of(in.y);
  p.value = rows_of(in.value);
  p.gate = rows_of(in.gate);
  p.strength = floats_of(in.strength);
  p.weight = floats_of(in.weight);
  p.bias = floats_of(in.bias);
  p.eps = static_cast<float>(in.eps);
  p.y_out = out.mutable_data_ptr();
  call.check(cuda_kernels().delta_rule(&p, call.stream()), "delta_rule_output");
  return out;
}

}  // namespace stuffed::kernels
