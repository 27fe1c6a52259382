// What the short convolution is, in plain loops: every other form must agree with this one.
#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/short_conv/short_conv.h"

namespace stuffed::kernels {

bool short_conv_cpu_takes(const ShortConvInputs& in) {
  return in.x.is_cpu();
}

ShortConvResult short_conv_cpu(const ShortConvInputs& in) {
  const Plain x(in.x), weight(in.weight), bias(in.bias), columns(in.columns);
  const int64_t B = in.x.size(0), T = in.x.size(1), C = in.x.size(2), W = in.weight.size(1);
  /// Input t of sequence b, which lies before x if t < 0.
  const auto input = [&](int64_t b, int64_t t, int64_t c) {
    return t < 0 ? columns[(b * C + c) * (W - 1) + W - 1 + t] : x[(b * T + t) * C + c];
  };
  const Tensor y = at::empty({B, T, C}, at::kDouble), next = at::empty({B, C, W - 1}, at::kDouble);
  auto Y = y.accessor<double, 3>();
  auto N = next.accessor<double, 3>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t t = 0; t < T; ++t) {
        double sum = bias.get(c, 0);
        for (int64_t m = 0; m < W; ++m)
          sum += weight[c * W + m] * input(b, t - (W - 1) + m, c);
        Y[b][t][c] = in.silu ? plain_silu(sum) : sum;
      }
      for (int64_t m = 0; m < W - 1; ++m)
        N[b][c][m] = input(b, T - (W - 1) + m, c);
    }
  return {y.to(in.x.scalar_type()), next.to(in.x.scalar_type())};
}

}  // namespace stuffed::kernels
