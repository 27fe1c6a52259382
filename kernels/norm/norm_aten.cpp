// Normalisations as ATen's operators, in f32: with a gradient, on any device.
#include <ATen/ATen.h>

#include "kernels/common/pieces.h"
#include "kernels/norm/norm.h"

namespace stuffed::kernels {

namespace {

/// x [...,n] f32 -> x / rms, over the last axis.
Tensor divide_by_rms(const Tensor& x, double eps) {
  return x * (x.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

/// x + skip * skip_weight in f32; rounded to x's type on the way, as the sum of two activations is.
Tensor with_skip(const NormInputs& in) {
  const Tensor x = in.x.to(at::kFloat);
  if (!in.skip.defined())
    return x;
  const Tensor skip =
      (in.skip.unflatten(-1, {in.skip_weight.size(0), -1}) * in.skip_weight.unsqueeze(-1))
          .flatten(-2);
  return (x + skip).to(in.x.scalar_type()).to(at::kFloat);
}

Tensor rms_aten(const NormInputs& in, const Tensor& x) {
  if (!in.weight.defined())
    return x;
  if (!in.gate.defined() && in.parts == 1)
    return divide_by_rms(x, in.eps) * in.weight;
  return divide_by_rms(x.unflatten(-1, {in.parts, x.size(-1) / in.parts}), in.eps).flatten(-2) *
         in.weight;
}

Tensor centred_aten(const NormInputs& in, const Tensor& x) {
  if (!in.gate.defined() && in.parts == 1)
    return at::layer_norm(x, {x.size(-1)}, in.weight, in.bias, in.eps);
  const Tensor parts = x.unflatten(-1, {in.parts, x.size(-1) / in.parts});
  const Tensor normal = at::layer_norm(parts, {parts.size(-1)}, {}, {}, in.eps).flatten(-2);
  return at::addcmul(in.bias, normal, in.weight);
}

}  // namespace

bool norm_aten_takes(const NormInputs&) {
  return true;
}

Tensor norm_aten(const NormInputs& in) {
  const Tensor gate = in.gate.defined() ? silu_in_pieces(in.gate.to(at::kFloat)) : Tensor();
  Tensor y = with_skip(in);
  if (gate.defined() && in.gate_first)
    y = y * gate;
  y = in.centre ? centred_aten(in, y) : rms_aten(in, y);
  if (gate.defined() && !in.gate_first)
    y = y * gate;
  return y.to(in.out.value_or(in.x.scalar_type()));
}

}  // namespace stuffed::kernels
