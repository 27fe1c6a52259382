#include "decay_sums.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace stuffed::eval {

namespace {

constexpr int64_t kElements = 1 << 22;  // of a decay, exponentiated at a time: 32 MB

/// log_decay of tokens [begin, end) of row 0: [n,H,K|1] f64.
Tensor log_decay_of(const ScanInputs& in, int64_t begin, int64_t end) {
  if (!in.factored_decay)
    return in.log_decay.select(0, 0).narrow(0, begin, end - begin).to(at::kDouble);
  const FactoredDecay& decay = *in.factored_decay;
  const Tensor step = decay.step.select(0, 0).narrow(0, begin, end - begin).unsqueeze(-1);
  return step.to(at::kDouble) * decay.rate.to(at::kDouble) + decay.offset;
}

}  // namespace

Tensor log_decay_sum(const ScanInputs& in) {
  if (!in.factored_decay)
    return in.log_decay.select(0, 0).sum({0}, false, at::kDouble);
  const FactoredDecay& decay = *in.factored_decay;  // [H,K] per token; never materialised
  const Tensor step = decay.step.select(0, 0).sum({0}, false, at::kDouble).unsqueeze(-1);  // [H,1]
  return step * decay.rate.to(at::kDouble) + decay.offset * static_cast<double>(decay.step.size(1));
}

Tensor alpha_sum(const ScanInputs& in) {
  const int64_t T = in.k.size(1);
  const int64_t row = in.factored_decay ? in.factored_decay->rate.numel()
                                        : in.log_decay.size(2) * in.log_decay.size(3);
  const int64_t piece = std::max<int64_t>(1, kElements / row);
  Tensor sum;
  for (int64_t begin = 0; begin < T; begin += piece) {
    const Tensor part = log_decay_of(in, begin, std::min(T, begin + piece)).exp().sum(0);
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

}  // namespace stuffed::eval
