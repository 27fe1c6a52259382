// From tensors to the loss kernel's parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/nll/nll.h"
#include "kernels/nll/nll_params.h"
#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

bool nll_cuda_takes(const NllInputs& in) {
  const Tensor& logits = in.logits;
  return runs_kernels(logits) && logits.dim() == 2 && logits.numel() > 0 && logits.stride(1) == 1 &&
         !wants_gradient(logits) &&
         (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16);
}

Tensor nll_cuda(const NllInputs& in) {
  const CudaCall call(in.logits);
  const Tensor nll = at::empty({in.logits.size(0)}, in.logits.options().dtype(at::kFloat));
  const Tensor targets = in.targets.contiguous();
  NllParams p;
  p.rows = in.logits.size(0);
  p.vocab = in.vocab;
  p.stride = in.logits.stride(0);
  p.is_bf16 = in.logits.scalar_type() == at::kBFloat16;
  p.logits = in.logits.const_data_ptr();
  p.targets = targets.const_data_ptr<int64_t>();
  p.nll = nll.mutable_data_ptr<float>();
  call.check(cuda_kernels().nll(&p, call.stream()), "nll");
  return nll;
}

}  // namespace stuffed::kernels
