// What RWKV-6's mixes are, in plain loops: every other form must agree with this one.
#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/shift_mixes/shift_mixes.h"

namespace stuffed::kernels {

bool shift_mixes_cpu_takes(const ShiftMixesInputs& in) {
  return in.x.is_cpu();
}

std::vector<Tensor> shift_mixes_cpu(const ShiftMixesInputs& in) {
  const Plain x(in.x), before(in.before), low(in.low), factors(in.factors);
  const int64_t T = in.x.size(1), D = in.x.size(2), M = in.low.size(2), R = in.low.size(3);
  std::vector<Tensor> mixes;
  for (int64_t m = 0; m < M; ++m) {
    const Plain shares(in.shares[static_cast<size_t>(m)]);
    const Tensor y = at::empty(in.x.sizes(), at::kDouble);
    for (int64_t i = 0; i < in.x.numel(); ++i) {
      const int64_t c = i % D, row = i / D;
      double share = shares[c];
      for (int64_t r = 0; r < R; ++r)
        share += low[(row * M + m) * R + r] * factors[(m * R + r) * D + c];
      const double past = row % T > 0 ? x[i - D] : before[row / T * D + c];
      y.mutable_data_ptr<double>()[i] = x[i] + (past - x[i]) * share;
    }
    mixes.push_back(y.to(in.x.scalar_type()));
  }
  return mixes;
}

}  // namespace stuffed::kernels
