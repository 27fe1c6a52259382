#include "stuffed/ops/norms.h"

#include <ATen/ATen.h>

namespace stuffed::ops {

namespace {

/// x [...,n] f32 -> x / rms, over the last axis.
Tensor divide_by_rms(const Tensor& x, double eps) {
  return x * (x.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType out) {
  return (divide_by_rms(x.to(at::kFloat), eps) * weight).to(out);
}

Tensor layer_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, at::ScalarType out) {
  return at::layer_norm(x.to(at::kFloat), {x.size(-1)}, weight, bias, eps).to(out);
}

Tensor group_norm(
    const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor parts = x.to(at::kFloat).unflatten(-1, {groups, x.size(-1) / groups});
  const Tensor normal = at::layer_norm(parts, {parts.size(-1)}, {}, {}, eps).flatten(-2);
  return at::addcmul(bias, normal, weight).to(x.scalar_type());
}

Tensor gated_rms_norm(const Tensor& y,
                      const Tensor& z,
                      const Tensor& weight,
                      int64_t groups,
                      double eps,
                      bool norm_before_gate) {
  const Tensor gate = at::silu(z.to(at::kFloat));
  Tensor g = y.to(at::kFloat);
  if (!norm_before_gate)
    g = g * gate;
  if (weight.defined())
    g = divide_by_rms(g.unflatten(-1, {groups, g.size(-1) / groups}), eps).flatten(-2) * weight;
  if (norm_before_gate)
    g = g * gate;
  return g.to(y.scalar_type());
}

}  // namespace stuffed::ops
