#include "stuffed/ops/activations.h"

#include <ATen/ATen.h>

#include "map_op.h"

namespace stuffed::ops {

Tensor silu(const Tensor& x) {
  return map({.map = Map::Silu, .a = x}).y;
}

Tensor sigmoid(const Tensor& x) {
  return map({.map = Map::Sigmoid, .a = x}).y;
}

Tensor silu_product(const Tensor& a, const Tensor& b) {
  return map({.map = Map::SiluProduct, .a = a, .b = b}).y;
}

Tensor sigmoid_product(const Tensor& a, const Tensor& b) {
  return map({.map = Map::SigmoidProduct, .a = a, .b = b}).y;
}

Tensor relu_square(const Tensor& a) {
  return map({.map = Map::ReluSquare, .a = a}).y;
}

Tensor negative_exp(const Tensor& a, const Tensor& offset) {
  return map({.map = Map::NegativeExp, .a = a, .w = offset}).y;
}

Tensor softplus(const Tensor& a, const Tensor& offset) {
  return map({.map = Map::Softplus, .a = a, .w = offset}).y;
}

ForgetGate forget_gate(const Tensor& a, const Tensor& low) {
  const kernels::MapResult out = map({.map = Map::ForgetGate, .a = a, .w = low});
  return {out.y, out.log_decay};
}

}  // namespace stuffed::ops
