#include "stuffed/ops/delta_rule.h"

#include <ATen/ATen.h>

#include "dispatch.h"
#include "kernels/delta_rule/delta_rule_cases.h"
#include "stuffed/core/error.h"

namespace stuffed::ops {

namespace {

using kernels::DeltaGatesInputs;
using kernels::DeltaOutputInputs;

constexpr Programs<DeltaGatesInputs, DeltaRuleGates, 3> kGates = {{
    {Impl::Cuda, kernels::delta_gates_cuda_takes, kernels::delta_gates_cuda},
    {Impl::Aten, kernels::delta_gates_aten_takes, kernels::delta_gates_aten},
    {Impl::Reference, kernels::delta_gates_cpu_takes, kernels::delta_gates_cpu},
}};

constexpr Programs<DeltaOutputInputs, Tensor, 3> kOutputs = {{
    {Impl::Cuda, kernels::delta_output_cuda_takes, kernels::delta_output_cuda},
    {Impl::Aten, kernels::delta_output_aten_takes, kernels::delta_output_aten},
    {Impl::Reference, kernels::delta_output_cpu_takes, kernels::delta_output_cpu},
}};

std::vector<OpCase> cases_of_delta_rule() {
  std::vector<OpCase> cases;
  add_cases(kGates, kernels::delta_gates_cases(), cases);
  add_cases(kOutputs, kernels::delta_output_cases(), cases);
  return cases;
}

}  // namespace

extern const Op delta_rule_op;
const Op delta_rule_op = {.name = "delta_rule",
                          .what = "the gates and outputs around the delta rule (RWKV-7)",
                          .forms = forms_of(kGates),
                          .cases = cases_of_delta_rule};

DeltaRuleGates delta_rule_gates(const DeltaRuleStreams& in, const DeltaRuleParameters& parameters) {
  check(parameters.bonus.numel() == in.key.size(-1), Error::Kind::Internal,
        "delta_rule: {} channels, and a bonus of {}", in.key.size(-1), parameters.bonus.numel());
  return dispatch(delta_rule_op, kGates, {.streams = in, .parameters = parameters});
}

Tensor delta_rule_output(const Tensor& y,
                         const Tensor& value,
                         const Tensor& strength,
                         const Tensor& gate,
                         const Tensor& weight,
                         const Tensor& bias,
                         double eps) {
  check(y.size(-1) % strength.size(-1) == 0 && value.sizes() == y.sizes(), Error::Kind::Internal,
        "delta_rule: y [{}], value [{}], {} heads", fmt::join(y.sizes(), ","),
        fmt::join(value.sizes(), ","), strength.size(-1));
  return dispatch(delta_rule_op, kOutputs,
                  {.y = y,
                   .value = value,
                   .strength = strength,
                   .gate = gate,
                   .weight = weight,
                   .bias = bias,
                   .eps = eps});
}

}  // namespace stuffed::ops
