#include "stuffed/ops/activations.h"

#include <ATen/ATen.h>

#include "kernels/layer/layer_cuda.h"

namespace stuffed::ops {

namespace {

using kernels::Map;

bool takes(std::initializer_list<Tensor> activations, const Tensor& parameter = {}) {
  return kernels::layer_cuda_takes(activations) &&
         kernels::layer_cuda_takes_parameters({parameter});
}

Tensor wide(const Tensor& x) {  // f64 stays, for tests
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

}  // namespace

Tensor silu_product(const Tensor& a, const Tensor& b) {
  if (takes({a, b}))
    return kernels::map_cuda(Map::SiluProduct, a, b, {});
  return (at::silu(wide(a)) * b).to(a.scalar_type());
}

Tensor sigmoid_product(const Tensor& a, const Tensor& b) {
  if (takes({a, b}))
    return kernels::map_cuda(Map::SigmoidProduct, a, b, {});
  return (at::sigmoid(wide(a)) * b).to(a.scalar_type());
}

Tensor relu_square(const Tensor& a) {
  if (takes({a}))
    return kernels::map_cuda(Map::ReluSquare, a, {}, {});
  return at::relu(a).square();
}

Tensor negative_exp(const Tensor& a, const Tensor& offset) {
  if (takes({a}, offset))
    return kernels::map_cuda(Map::NegativeExp, a, {}, offset);
  return -(wide(a) + offset).exp();
}

Tensor softplus(const Tensor& a, const Tensor& offset) {
  if (takes({a}, offset))
    return kernels::map_cuda(Map::Softplus, a, {}, offset);
  return at::softplus(wide(a) + offset);
}

ForgetGate forget_gate(const Tensor& a, const Tensor& low) {
  if (takes({a}, low)) {
    const auto [insert, log_forget] = kernels::forget_gate_cuda(a, low);
    return {insert, log_forget};
  }
  const Tensor x = wide(a);
  Tensor log_forget = at::log_sigmoid(x), insert = at::sigmoid(-x);
  if (low.defined()) {
    const Tensor free = 1 - low;
    log_forget = at::logaddexp(low.log(), free.log() + log_forget);
    insert = free * insert;
  }
  return {insert.to(a.scalar_type()), log_forget.clamp_max(0)};
}

}  // namespace stuffed::ops
