#include "stuffed/ops/short_conv.h"

#include <ATen/ATen.h>

namespace stuffed::ops {

ConvResult short_conv(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& columns, bool silu) {
  const int64_t tokens = x.size(1), width = weight.size(1);
  const Tensor padded =
      at::cat({columns.transpose(1, 2).to(x.scalar_type()), x}, 1);  // [B,W-1+T,C]
  Tensor y;
  for (int64_t tap = 0; tap < width; ++tap) {
    const Tensor term = padded.narrow(1, tap, tokens).to(at::kFloat) * weight.select(1, tap);
    y = y.defined() ? y + term : term;
  }
  if (bias.defined())
    y = y + bias;
  if (silu)
    y = at::silu(y);
  // A copy of its own: a view would keep the whole segment alive.
  return {y.to(x.scalar_type()),
          padded.narrow(1, tokens, width - 1).transpose(1, 2).clone(at::MemoryFormat::Contiguous)};
}

}  // namespace stuffed::ops
