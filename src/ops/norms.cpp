#include "stuffed/ops/norms.h"

#include <utility>

#include <ATen/ATen.h>

#include "dispatch.h"
#include "kernels/norm/norm.h"
#include "kernels/norm/norm_cases.h"
#include "stuffed/core/error.h"

namespace stuffed::ops {

namespace {

using kernels::NormInputs;

constexpr Programs<NormInputs, Tensor, 4> kNorms = {{
    {Impl::Cuda, kernels::norm_cuda_takes, kernels::norm_cuda},
    {Impl::Fast, kernels::norm_fast_takes, kernels::norm_fast},
    {Impl::Aten, kernels::norm_aten_takes, kernels::norm_aten},
    {Impl::Reference, kernels::norm_cpu_takes, kernels::norm_cpu},
}};

std::vector<OpCase> cases_of_norm() {
  std::vector<OpCase> cases;
  add_cases(kNorms, kernels::norm_cases(), cases);
  return cases;
}

}  // namespace

extern const Op norm_op;
const Op norm_op = {.name = "norm",
                    .what = "RMS, layer and group norms, gated or not",
                    .forms = forms_of(kNorms),
                    .cases = cases_of_norm};

namespace {

void check_parameter(const char* name, const Tensor& x, int64_t channels) {
  check(!x.defined() || x.numel() == channels, Error::Kind::Internal,
        "norm: {} has {} numbers for {} channels", name, x.numel(), channels);
}

Tensor normalise(const NormInputs& in) {
  const int64_t channels = in.x.size(-1);
  check(in.parts > 0 && channels % in.parts == 0, Error::Kind::Internal,
        "norm: {} channels in {} parts", channels, in.parts);
  check_parameter("weight", in.weight, channels);
  check_parameter("bias", in.bias, channels);
  return dispatch(norm_op, kNorms, in);
}

/// Whether nobody would see it if x was written over.
bool is_only_owner(const Tensor& x) {
  return x.is_contiguous() && x.use_count() == 1 && x.storage().use_count() == 1;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType out) {
  return normalise({.x = x, .weight = weight, .eps = eps, .out = out});
}

Tensor layer_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, at::ScalarType out) {
  return normalise(
      {.x = x, .weight = weight, .bias = bias, .centre = true, .eps = eps, .out = out});
}

Tensor group_norm(const Tensor& x,
                  int64_t groups,
                  const Tensor& weight,
                  const Tensor& bias,
                  double eps,
                  const Tensor& gate) {
  return normalise({.x = x,
                    .gate = gate,
                    .weight = weight,
                    .bias = bias,
                    .parts = groups,
                    .centre = true,
                    .eps = eps});
}

Tensor gated_rms_norm(Tensor y,
                      const Tensor& z,
                      const Tensor& weight,
                      int64_t groups,
                      double eps,
                      bool norm_before_gate,
                      const Skip& skip) {
  const bool may_write_over = y.is_cpu() && is_only_owner(y);  // before it is shared below
  return normalise({.x = y,
                    .gate = z,
                    .skip = skip.x,
                    .weight = weight,
                    .skip_weight = skip.weight,
                    .parts = groups,
                    .gate_first = !norm_before_gate,
                    .eps = eps,
                    .to = may_write_over ? y : Tensor()});
}

}  // namespace stuffed::ops
