// The short convolution as ATen's operators, in f32: with a gradient, on any device.
#include <ATen/ATen.h>

#include "kernels/common/pieces.h"
#include "kernels/short_conv/short_conv.h"

namespace stuffed::kernels {

bool short_conv_aten_takes(const ShortConvInputs&) {
  return true;
}

ShortConvResult short_conv_aten(const ShortConvInputs& in) {
  const int64_t tokens = in.x.size(1), width = in.weight.size(1);
  const auto type = in.x.scalar_type();
  const Tensor padded = at::cat({in.columns.transpose(1, 2).to(type), in.x}, 1);  // [B,W-1+T,C]
  Tensor y;
  for (int64_t tap = 0; tap < width; ++tap) {
    const Tensor term = padded.narrow(1, tap, tokens).to(at::kFloat) * in.weight.select(1, tap);
    y = y.defined() ? y + term : term;
  }
  if (in.bias.defined())
    y = y + in.bias;
  if (in.silu)
    y = silu_in_pieces(y);
  // A copy of its own: a view would keep the whole segment alive.
  return {y.to(type),
          padded.narrow(1, tokens, width - 1).transpose(1, 2).clone(at::MemoryFormat::Contiguous)};
}

}  // namespace stuffed::kernels
