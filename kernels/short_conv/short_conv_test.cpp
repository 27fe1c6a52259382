// Every form of the short convolution against the reference; the CUDA kernel through views.
#include "kernels/short_conv/short_conv.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_rows.h"
#include "kernels/common/cuda_testing.h"
#include "stuffed/ops/short_conv.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(ShortConvolutions, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("short_conv", {"fast", "aten"}, {"cuda", "aten"});
}

#if STUFFED_WITH_CUDA

using testing::bitwise_equal;
using testing::bound_of;
using testing::close;
using testing::CudaLayer;
using testing::kTypes;
using testing::parameter;
using testing::poison;
using testing::view;
using testing::wide;

TEST_F(CudaLayer, ShortConvolutionsAgree) {
  for (const auto type : kTypes)
    for (const int64_t T : {1, 2, 3, 4, 15, 16, 17, 64, 1000})
      for (const int64_t W : {2, 3, 4})
        for (const bool silu : {false, true}) {
          const Tensor x = view(2, T, 332, type, 3),
                       columns = view(2, 332, W - 1, at::kFloat).to(type);
          const Tensor weight = parameter({332, W}), bias = silu ? parameter({332}) : Tensor();
          ASSERT_TRUE(kernels::takes_cuda_rows({x}));
          poison(x);
          const auto actual = ops::short_conv(x, weight, bias, columns, silu);
          const auto expected =
              ops::short_conv(wide(x), wide(weight), wide(bias), wide(columns), silu);
          EXPECT_TRUE(close(actual.y, expected.y, bound_of(type))) << T << ' ' << W;
          EXPECT_TRUE(bitwise_equal(wide(actual.columns), expected.columns)) << T << ' ' << W;
        }
}

TEST_F(CudaLayer, ShortConvolutionsMayBeSplitAnywhereAndBatched) {
  const Tensor x = view(3, 100, 64, at::kBFloat16), weight = parameter({64, 4}),
               bias = parameter({64});
  const Tensor columns = view(3, 64, 3, at::kFloat).to(at::kBFloat16);
  const auto whole = ops::short_conv(x, weight, bias, columns, true);
  for (const int64_t cut : {1, 2, 3, 16, 50, 99}) {
    const auto first = ops::short_conv(x.narrow(1, 0, cut), weight, bias, columns, true);
    const auto second =
        ops::short_conv(x.narrow(1, cut, 100 - cut), weight, bias, first.columns, true);
    EXPECT_TRUE(bitwise_equal(at::cat({first.y, second.y}, 1), whole.y)) << cut;
    EXPECT_TRUE(bitwise_equal(second.columns, whole.columns)) << cut;
  }
  const auto alone =
      ops::short_conv(x.narrow(0, 1, 1), weight, bias, columns.narrow(0, 1, 1), true);
  EXPECT_TRUE(bitwise_equal(alone.y, whole.y.narrow(0, 1, 1)));
}

#endif

}  // namespace
}  // namespace stuffed
