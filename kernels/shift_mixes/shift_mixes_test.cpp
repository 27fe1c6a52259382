// Every form of RWKV-6's mixes against the reference; the CUDA kernel through views.
#include "kernels/shift_mixes/shift_mixes.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_testing.h"
#include "stuffed/ops/token_shift.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(ShiftMixes, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("shift_mixes", {"aten"}, {"cuda", "aten"});
}

#if STUFFED_WITH_CUDA

using testing::bitwise_equal;
using testing::close;
using testing::CudaLayer;
using testing::parameter;
using testing::poison;
using testing::view;
using testing::wide;

TEST_F(CudaLayer, LowRankMixesAgreeAndMayBeSplitAnywhere) {
  for (const int64_t rank : {16, 32, 64, 24})  // the last one otherwise
    for (const int64_t T : {1, 15, 16, 64, 300}) {
      const int64_t D = 256;
      const Tensor x = view(2, T, D, at::kBFloat16),
                   before = view(2, 2, D, at::kBFloat16).select(1, 1);
      const Tensor low = view(2, T, 5 * rank, at::kBFloat16).contiguous().unflatten(-1, {5, rank});
      const Tensor factors = parameter({5, rank, D}).to(at::kBFloat16) * 0.2;
      std::array<Tensor, 5> shares;
      for (Tensor& share : shares)
        share = parameter({D});
      const kernels::ShiftMixesInputs in{.x = x,
                                         .before = before,
                                         .shares = {shares.begin(), shares.end()},
                                         .low = low,
                                         .factors = factors};
      EXPECT_EQ(kernels::shift_mixes_cuda_takes(in), rank != 24);
      poison(x);
      const ops::TokenShift shift(x, before);
      const ops::LowRankMixes mixes(shift, shares, low, factors);
      const Tensor previous = at::cat({wide(before).unsqueeze(1), wide(x)}, 1).narrow(1, 0, T);
      for (size_t m = 0; m < shares.size(); ++m) {
        const auto i = static_cast<int64_t>(m);
        const Tensor share = wide(shares[m]) + at::matmul(wide(low.select(2, i)), wide(factors[i]));
        EXPECT_TRUE(close(mixes(m), wide(x) + (previous - wide(x)) * share, 5e-3))
            << rank << ' ' << T;
      }
      if (T < 2)
        continue;
      const int64_t cut = T / 2;
      const Tensor first_low = low.narrow(1, 0, cut).contiguous(),
                   second_low = low.narrow(1, cut, T - cut).contiguous();
      const ops::TokenShift first(x.narrow(1, 0, cut), before);
      const ops::TokenShift second(x.narrow(1, cut, T - cut), first.last());
      const ops::LowRankMixes one(first, shares, first_low, factors),
          two(second, shares, second_low, factors);
      EXPECT_TRUE(bitwise_equal(at::cat({one(3), two(3)}, 1), mixes(3))) << rank << ' ' << T;
    }
}

#endif

}  // namespace
}  // namespace stuffed
