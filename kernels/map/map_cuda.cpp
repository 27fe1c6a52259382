// From tensors to the map kernel's parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/map/map.h"

namespace stuffed::kernels {

bool map_cuda_takes(const MapInputs& in) {
  if (in.map == Map::Silu || in.map == Map::Sigmoid || !takes_cuda_parameters({in.w, in.w2}))
    return false;
  if (in.map != Map::ShiftMix)
    return takes_cuda_rows({in.a, in.b});
  return takes_cuda_rows({in.a, in.b, in.before.unsqueeze(1)});
}

MapResult map_cuda(const MapInputs& in) {
  const CudaCall call(in.a);
  const RowsShape shape = rows_shape(in.a);
  const auto f32 = in.a.options().dtype(at::kFloat);
  MapResult out{at::empty(in.a.sizes(), gives_f32(in.map) ? f32 : in.a.options())};
  MapParams p;
  p.map = in.map;
  p.batch = shape.batch;
  p.tokens = shape.tokens;
  p.channels = shape.channels;
  p.is_bf16 = in.a.scalar_type() == at::kBFloat16;
  p.a = rows_of(in.a);
  p.b = rows_of(in.b);
  if (in.before.defined())
    p.before = {in.before.const_data_ptr(), in.before.stride(0), 0};
  p.w = floats_of(in.w);
  p.w2 = floats_of(in.w2);
  p.least = static_cast<float>(in.least);
  p.most = static_cast<float>(in.most);
  p.y = out.y.mutable_data_ptr();
  if (in.map == Map::ForgetGate || in.map == Map::StepGates) {
    out.log_decay = at::empty(in.a.sizes(), f32);
    p.log_decay = out.log_decay.mutable_data_ptr<float>();
  }
  call.check(cuda_kernels().map(&p, call.stream()), map_name(in.map));
  return out;
}

}  // namespace stuffed::kernels
