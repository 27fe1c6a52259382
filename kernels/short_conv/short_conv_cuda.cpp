// From tensors to the short convolution's kernel's parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/short_conv/short_conv.h"
#include "kernels/short_conv/short_conv_params.h"
#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

bool short_conv_cuda_takes(const ShortConvInputs& in) {
  const int64_t width = in.weight.size(1);
  return takes_cuda_rows({in.x}) && takes_cuda_parameters({in.weight, in.bias}) && width >= 2 &&
         width <= 4 && in.columns.scalar_type() == in.x.scalar_type() &&
         !wants_gradient(in.columns);
}

ShortConvResult short_conv_cuda(const ShortConvInputs& in) {
  const CudaCall call(in.x);
  const Tensor columns = in.columns.contiguous();
  const ShortConvResult out{at::empty(in.x.sizes(), in.x.options()),
                            at::empty(columns.sizes(), in.x.options())};
  ShortConvParams p;
  p.batch = in.x.size(0);
  p.tokens = in.x.size(1);
  p.channels = in.x.size(2);
  p.width = static_cast<int32_t>(in.weight.size(1));
  p.is_bf16 = in.x.scalar_type() == at::kBFloat16;
  p.silu = in.silu;
  p.x = rows_of(in.x);
  p.weight = floats_of(in.weight);
  p.bias = floats_of(in.bias);
  p.columns = columns.const_data_ptr();
  p.y = out.y.mutable_data_ptr();
  p.next = out.columns.mutable_data_ptr();
  call.check(cuda_kernels().short_conv(&p, call.stream()), "short_conv");
  return out;
}

}  // namespace stuffed::kernels
