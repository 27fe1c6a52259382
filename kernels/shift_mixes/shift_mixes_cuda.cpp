// From tensors to the mixes' kernel's parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/shift_mixes/shift_mixes.h"

namespace stuffed::kernels {

bool shift_mixes_cuda_takes(const ShiftMixesInputs& in) {
  constexpr int64_t kEight = 8;  // 16 bytes
  const Tensor &x = in.x, &low = in.low, &factors = in.factors;
  for (const Tensor& share : in.shares)
    if (!takes_cuda_parameters({share}))
      return false;
  const int64_t rank = low.size(-1);
  return in.shares.size() == size_t{kShiftMixes} && takes_cuda_rows({x, low, factors}) &&
         x.dim() == 3 && x.scalar_type() == at::kBFloat16 && x.size(2) % kShiftMixColumns == 0 &&
         x.stride(0) % kEight == 0 && x.stride(1) % kEight == 0 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
         (rank == 16 || rank == 32 || rank == 64) && low.is_contiguous() &&
         factors.is_contiguous() && factors.size(0) == kShiftMixes;
}

std::vector<Tensor> shift_mixes_cuda(const ShiftMixesInputs& in) {
  const CudaCall call(in.x);
  const Tensor before = in.before.contiguous();
  std::vector<Tensor> y;
  ShiftMixesParams p;
  p.batch = in.x.size(0);
  p.tokens = in.x.size(1);
  p.channels = in.x.size(2);
  p.rank = static_cast<int32_t>(in.low.size(-1));
  p.x = rows_of(in.x);
  p.before = {before.const_data_ptr(), before.stride(0), 0};
  p.low = in.low.const_data_ptr();
  p.factor = in.factors.const_data_ptr();
  for (size_t m = 0; m < in.shares.size(); ++m) {
    y.push_back(at::empty(in.x.sizes(), in.x.options()));
    p.share[m] = floats_of(in.shares[m]);
    p.y[m] = y[m].mutable_data_ptr();
  }
  call.check(cuda_kernels().shift_mixes(&p, call.stream()), "shift_mixes");
  return y;
}

}  // namespace stuffed::kernels
