// From tensors to the norm kernel's parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/norm/norm.h"
#include "kernels/norm/norm_params.h"

namespace stuffed::kernels {

bool norm_cuda_takes(const NormInputs& in) {
  const auto out = in.out.value_or(in.x.scalar_type());
  const int64_t width = in.x.size(-1) / in.parts;
  return (out == at::kFloat || out == at::kBFloat16) && takes_cuda_rows({in.x, in.gate, in.skip}) &&
         takes_cuda_parameters({in.weight, in.bias, in.skip_weight}) && width <= kWidestNorm &&
         width % kLayerChannels == 0;
}

Tensor norm_cuda(const NormInputs& in) {
  const CudaCall call(in.x);
  const RowsShape shape = rows_shape(in.x);
  const auto out = in.out.value_or(in.x.scalar_type());
  const Tensor y = at::empty(in.x.sizes(), in.x.options().dtype(out));
  NormParams p;
  p.batch = shape.batch;
  p.tokens = shape.tokens;
  p.parts = static_cast<int32_t>(in.parts);
  p.width = static_cast<int32_t>(shape.channels / in.parts);
  p.is_bf16 = in.x.scalar_type() == at::kBFloat16;
  p.y_bf16 = out == at::kBFloat16;
  p.centre = in.centre;
  p.gate_first = in.gate_first;
  p.x = rows_of(in.x);
  p.gate = rows_of(in.gate);
  p.skip = rows_of(in.skip);
  p.weight = floats_of(in.weight);
  p.bias = floats_of(in.bias);
  p.skip_weight = floats_of(in.skip_weight);
  if (in.skip_weight.defined())
    p.skip_width = static_cast<int32_t>(shape.channels / in.skip_weight.numel());
  p.eps = static_cast<float>(in.eps);
  p.y = y.mutable_data_ptr();
  call.check(cuda_kernels().norm(&p, call.stream()), "norm");
  return y;
}

}  // namespace stuffed::kernels
