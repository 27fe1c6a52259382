#include "stuffed/ops/token_shift.h"

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"
#include "kernels/layer/layer_cuda.h"

namespace stuffed::ops {

namespace {

Tensor difference(const Tensor& x, const Tensor& before) {
  const Tensor previous = at::cat({before.unsqueeze(1), x}, 1).narrow(1, 0, x.size(1));
  return previous.to(at::kFloat) - x.to(at::kFloat);
}

}  // namespace

TokenShift::TokenShift(const Tensor& x, const Tensor& before)
    : x_(x), before_(before.to(x.scalar_type())) {
  if (!kernels::layer_cuda_takes({x, before_.unsqueeze(1)}))
    delta_ = difference(x_, before_);
}

Tensor TokenShift::mix(const Tensor& share, const Tensor& shift) const {
  if (!delta_.defined() && kernels::layer_cuda_takes({x_, shift.defined() ? shift : x_}) &&
      kernels::layer_cuda_takes_parameters({share}))
    return kernels::shift_mix_cuda(x_, before_, share, shift);
  const Tensor weight = shift.defined() ? share + shift.to(at::kFloat) : share;
  const Tensor delta = delta_.defined() ? delta_ : difference(x_, before_);
  return at::addcmul(x_.to(at::kFloat), delta, weight).to(x_.scalar_type());
}

Tensor TokenShift::last() const {
  return (x_.size(1) > 0 ? x_.select(1, x_.size(1) - 1) : before_).clone();
}

LowRankMixes::LowRankMixes(const TokenShift& x,
                           std::span<const Tensor> shares,
                           const Tensor& low,
                           const Tensor& factors)
    : x_(x), shares_(shares), low_(low), factors_(factors) {
  bool takes = shares.size() == size_t{kernels::kShiftMixes} &&
               kernels::shift_mixes_cuda_takes(x.x_, low, factors);
  for (const Tensor& share : shares)
    takes = takes && kernels::layer_cuda_takes_parameters({share});
  if (takes)
    made_ = kernels::shift_mixes_cuda(x.x_, x.before_, shares, low, factors);
}

Tensor LowRankMixes::operator()(size_t m) const {
  if (!made_.empty())
    return made_[m];
  const auto i = static_cast<int64_t>(m);
  return x_.mix(shares_[m], kernels::matrix_product(low_.select(-2, i), factors_[i]));
}

}  // namespace stuffed::ops
