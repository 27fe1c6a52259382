#include "stuffed/ops/linear.h"

#include <ATen/ATen.h>

namespace stuffed::ops {

int64_t Linear::in_features() const {
  return weight.defined() ? weight.size(1) : in;
}
int64_t Linear::out_features() const {
  return weight.defined() ? weight.size(0) : out;
}

void Linear::pack(bool) {}

Tensor linear(const Tensor& x, const Linear& layer) {
  const Tensor weight = layer.weight.to(x.scalar_type());
  return layer.bias.defined() ? at::linear(x, weight, layer.bias.to(x.scalar_type()))
                              : at::linear(x, weight);
}

}  // namespace stuffed::ops
