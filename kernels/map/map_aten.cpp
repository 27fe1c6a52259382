// The maps as ATen's operators, in f32: with a gradient, on any device.
#include <ATen/ATen.h>

#include "kernels/common/pieces.h"
#include "kernels/map/map.h"
#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

namespace {

Tensor widened(const Tensor& x) {  // f64 stays, for tests
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

Tensor log_add_exp(const Tensor& a, const Tensor& b) {
  if (wants_gradient(a) || wants_gradient(b))
    return at::logaddexp(a, b);
  const auto f = [](Tensor& out, const Tensor& x, const Tensor& y) {
    at::logaddexp_out(out, x, y);
  };
  return in_pieces(f, a.expand_as(b), b);
}

Tensor softplus_aten(const Tensor& x) {
  if (wants_gradient(x))
    return at::softplus(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::softplus_out(out, piece); }, x);
}

MapResult forget_gate_aten(const Tensor& a, const Tensor& low) {
  const Tensor x = widened(a);
  Tensor log_forget = at::log_sigmoid(x), insert = sigmoid_in_pieces(-x);
  if (low.defined()) {
    const Tensor free = 1 - low;
    log_forget = log_add_exp(low.log(), free.log() + log_forget);
    insert = free * insert;
  }
  return {insert.to(a.scalar_type()), log_forget.clamp_max(0)};
}

MapResult step_gates_aten(const MapInputs& in) {
  const Tensor dt = softplus_aten(in.a.to(at::kFloat) + in.w).clamp(in.least, in.most);
  return {dt, dt * -in.w2.exp()};
}

Tensor shift_mix_aten(const MapInputs& in) {
  const Tensor weight = in.b.defined() ? in.w + in.b.to(at::kFloat) : in.w;
  const Tensor difference =
      in.difference.defined() ? in.difference : shift_difference(in.a, in.before);
  return at::addcmul(in.a.to(at::kFloat), difference, weight).to(in.a.scalar_type());
}

}  // namespace

Tensor shift_difference(const Tensor& a, const Tensor& before) {
  const Tensor previous = at::cat({before.unsqueeze(1), a}, 1).narrow(1, 0, a.size(1));
  return previous.to(at::kFloat) - a.to(at::kFloat);
}

bool map_aten_takes(const MapInputs&) {
  return true;
}

MapResult map_aten(const MapInputs& in) {
  const auto type = in.a.scalar_type();
  switch (in.map) {
    case Map::SiluProduct:
      return {(silu_in_pieces(widened(in.a)) * in.b).to(type)};
    case Map::SigmoidProduct:
      return {(sigmoid_in_pieces(widened(in.a)) * in.b).to(type)};
    case Map::ReluSquare:
      return {at::relu(in.a).square()};
    case Map::NegativeExp:
      return {-(widened(in.a) + in.w).exp()};
    case Map::Softplus:
      return {softplus_aten(widened(in.a) + in.w)};
    case Map::ForgetGate:
      return forget_gate_aten(in.a, in.w);
    case Map::StepGates:
      return step_gates_aten(in);
    case Map::ShiftMix:
      return {shift_mix_aten(in)};
    case Map::Silu:
      return {silu_in_pieces(in.a)};
    case Map::Sigmoid:
      return {sigmoid_in_pieces(in.a)};
  }
  return {};
}

}  // namespace stuffed::kernels
