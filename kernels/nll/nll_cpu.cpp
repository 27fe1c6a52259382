// What the loss of a row of logits is, in plain loops: every other form must agree with this one.
#include <cmath>

#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/nll/nll.h"

namespace stuffed::kernels {

bool nll_cpu_takes(const NllInputs& in) {
  return in.logits.is_cpu();
}

Tensor nll_cpu(const NllInputs& in) {
  const Plain logits(in.logits);
  const int64_t rows = in.logits.size(0), stride = in.logits.size(1);
  const auto target = in.targets.accessor<int64_t, 1>();
  const Tensor nll = at::empty({rows}, at::kDouble);
  for (int64_t i = 0; i < rows; ++i) {
    double most = logits[i * stride], sum = 0;
    for (int64_t c = 1; c < in.vocab; ++c)
      most = std::fmax(most, logits[i * stride + c]);
    const double shift = std::isfinite(most) ? most : 0;  // inf - inf would be NaN
    for (int64_t c = 0; c < in.vocab; ++c)
      sum += std::exp(logits[i * stride + c] - shift);
    nll.mutable_data_ptr<double>()[i] = shift + std::log(sum) - logits[i * stride + target[i]];
  }
  return in.logits.scalar_type() == at::kDouble ? nll : nll.to(at::kFloat);
}

}  // namespace stuffed::kernels
