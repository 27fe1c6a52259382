#include "stuffed/ops/token_shift.h"

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"
#include "kernels/shift_mixes/shift_mixes_cases.h"
#include "map_op.h"

namespace stuffed::ops {

TokenShift::TokenShift(const Tensor& x, const Tensor& before)
    : x_(x), before_(before.to(x.scalar_type())) {
  if (map_form({.map = Map::ShiftMix, .a = x_, .before = before_}) == Impl::Aten)
    difference_ = kernels::shift_difference(x_, before_);
}

Tensor TokenShift::mix(const Tensor& share, const Tensor& shift) const {
  return map({.map = Map::ShiftMix,
              .a = x_,
              .b = shift,
              .w = share,
              .before = before_,
              .difference = difference_})
      .y;
}

Tensor TokenShift::last() const {
  return (x_.size(1) > 0 ? x_.select(1, x_.size(1) - 1) : before_).clone();
}

namespace {

using kernels::ShiftMixesInputs;
using Mixes = std::vector<Tensor>;

Tensor low_rank_mix(const TokenShift& x, const ShiftMixesInputs& in, size_t m) {
  const auto i = static_cast<int64_t>(m);
  return x.mix(in.shares[m], kernels::matrix_product(in.low.select(-2, i), in.factors[i]));
}

bool mixes_aten_takes(const ShiftMixesInputs&) {
  return true;
}

Mixes mixes_aten(const ShiftMixesInputs& in) {
  const TokenShift x(in.x, in.before);
  Mixes mixes;
  for (size_t m = 0; m < in.shares.size(); ++m)
    mixes.push_back(low_rank_mix(x, in, m));
  return mixes;
}

constexpr Programs<ShiftMixesInputs, Mixes, 3> kMixes = {{
    {Impl::Cuda, kernels::shift_mixes_cuda_takes, kernels::shift_mixes_cuda},
    {Impl::Aten, mixes_aten_takes, mixes_aten},
    {Impl::Reference, kernels::shift_mixes_cpu_takes, kernels::shift_mixes_cpu},
}};

std::vector<OpCase> cases_of_shift_mixes() {
  std::vector<OpCase> cases;
  add_cases(kMixes, kernels::shift_mixes_cases(), cases);
  return cases;
}

}  // namespace

extern const Op shift_mixes_op;
const Op shift_mixes_op = {.name = "shift_mixes",
                           .what = "the token shift's mixes with low-rank shares (RWKV-6)",
                           .forms = forms_of(kMixes),
                           .cases = cases_of_shift_mixes};

LowRankMixes::LowRankMixes(const TokenShift& x,
                           std::span<const Tensor> shares,
                           const Tensor& low,
                           const Tensor& factors)
    : x_(x),
      in_{.x = x.x_,
          .before = x.before_,
          .shares = {shares.begin(), shares.end()},
          .low = low,
          .factors = factors} {
  const auto& program = choose(shift_mixes_op, kMixes, in_);
  if (program.form != Impl::Aten)
    made_ = program.run(in_);
}

Tensor LowRankMixes::operator()(size_t m) const {
  return made_.empty() ? low_rank_mix(x_, in_, m) : made_[m];
}

}  // namespace stuffed::ops
