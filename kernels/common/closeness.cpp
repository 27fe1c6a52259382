#include "kernels/common/closeness.h"

#include <limits>
#include <vector>

#include <ATen/ATen.h>

namespace stuffed::kernels {

double worst_relative_rms(const Tensor& actual, const Tensor& expected, at::IntArrayRef axes) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (actual.sizes() != expected.sizes())
    return kInfinite;
  if (expected.numel() == 0)
    return 0;
  const Tensor e = expected.detach().to(actual.device(), at::kDouble);
  const Tensor error = actual.detach().to(at::kDouble) - e;
  if (!error.isfinite().all().item<bool>())
    return kInfinite;
  const Tensor rms = error.square().mean(axes).sqrt(), scale = e.square().mean(axes).sqrt();
  // 0 / 0 is agreement; anything else over 0 is infinite by itself.
  return at::where(rms == 0, at::zeros_like(rms), rms / scale).max().item<double>();
}

double relative_rms(const Tensor& actual, const Tensor& expected) {
  if (actual.sizes() != expected.sizes())
    return std::numeric_limits<double>::infinity();
  return worst_relative_rms(actual.reshape({1, -1}), expected.reshape({1, -1}), 1);
}

double worst_output_rms(const Tensor& actual, const Tensor& expected) {
  const bool is_short = expected.dim() == 4 && expected.size(1) * expected.size(3) < 16;
  const std::vector<int64_t> axes =
      is_short ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{1, 3};
  return worst_relative_rms(actual, expected, axes);
}

}  // namespace stuffed::kernels
