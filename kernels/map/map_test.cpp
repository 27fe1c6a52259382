// Every form of the maps against the reference; the CUDA kernel through views.
#include "kernels/map/map.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_testing.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/step_gates.h"
#include "stuffed/ops/token_shift.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(Maps, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("map", {"fast", "aten"}, {"cuda", "aten"});
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

TEST_F(CudaLayer, ActivationsAgree) {
  for (const auto type : kTypes)
    for (const double scale : {1.0, 30.0}) {
      const Tensor a = view(2, 9, 324, type, scale), b = view(2, 9, 324, type);
      const Tensor w = parameter({324});
      const Tensor A = wide(a), B = wide(b), W = wide(w);
      const double bound = bound_of(type);
      poison(a);
      EXPECT_TRUE(close(ops::silu_product(a, b), at::silu(A) * B, bound));
      EXPECT_TRUE(close(ops::sigmoid_product(a, b), at::sigmoid(A) * B, bound));
      EXPECT_TRUE(close(ops::relu_square(a), at::relu(A).square(), bound));
      EXPECT_TRUE(close(ops::softplus(a, w), at::softplus(A + W), 1e-6));
      EXPECT_TRUE(close(ops::negative_exp(a / scale, w), -(wide(a / scale) + W).exp(), 1e-6));
    }
}

TEST_F(CudaLayer, StepGatesAgree) {
  const double no_limit = std::numeric_limits<double>::infinity();
  for (const auto type : kTypes)
    for (const double scale : {1.0, 30.0, 1e4})
      for (const auto& [least, most] : {std::pair{0.0, no_limit}, {1e-3, 5.0}}) {
        const Tensor raw = view(2, 9, 64, type, scale), bias = parameter({64}),
                     a_log = parameter({64});
        poison(raw);
        const auto actual = ops::step_gates(raw, bias, a_log, least, most);
        const Tensor dt = at::softplus(wide(raw) + wide(bias)).clamp(least, most);
        EXPECT_TRUE(close(actual.dt, dt, 1e-6)) << scale;
        EXPECT_TRUE(close(actual.log_decay, dt * -wide(a_log).exp(), 1e-6)) << scale;
      }
}

TEST_F(CudaLayer, ForgetGatesKeepTheirDigitsAtBothEnds) {
  for (const auto type : kTypes)
    for (const bool bounded : {false, true})
      for (const double shift : {-80.0, -8.0, 0.0, 8.0, 14.0}) {
        const Tensor a = view(2, 9, 128, type).add_(shift);
        const Tensor low = bounded ? at::rand({128}).to(at::kCUDA) * 0.9 : Tensor();
        poison(a);
        const auto actual = ops::forget_gate(a, low);
        const Tensor A = wide(a), L = bounded ? wide(low) : at::zeros({128}, at::kDouble);
        const Tensor insert = (1 - L) * at::sigmoid(-A);
        const Tensor log_forget = bounded ? at::where(insert < 0.5, at::log1p(-insert),
                                                      (L + (1 - L) * at::sigmoid(A)).log())
                                          : at::log_sigmoid(A);
        EXPECT_TRUE(close(actual.insert, insert, bound_of(type))) << shift;
        EXPECT_TRUE(close(actual.log_forget, log_forget, 1e-6)) << shift;
        EXPECT_LE(actual.log_forget.max().item<float>(), 0);
      }
}

TEST_F(CudaLayer, TokenShiftsAgreeAndMayBeSplitAnywhere) {
  for (const auto type : kTypes)
    for (const bool by_token : {false, true}) {
      const Tensor x = view(2, 40, 256, type), before = view(2, 2, 256, type).select(1, 1);
      const Tensor share = parameter({256}), shift = by_token ? view(2, 40, 256, type) : Tensor();
      const Tensor previous = at::cat({wide(before).unsqueeze(1), wide(x).narrow(1, 0, 39)}, 1);
      const Tensor weight = by_token ? wide(share) + wide(shift) : wide(share);
      poison(x);
      const ops::TokenShift whole(x, before);
      const Tensor y = whole.mix(share, shift);
      EXPECT_TRUE(close(y, wide(x) + (previous - wide(x)) * weight, bound_of(type)));
      EXPECT_TRUE(bitwise_equal(whole.last(), x.select(1, 39)));
      for (const int64_t cut : {1, 17, 39}) {
        const auto part = [&](int64_t begin, int64_t end) {
          return by_token ? shift.slice(1, begin, end) : shift;
        };
        const ops::TokenShift first(x.slice(1, 0, cut), before);
        const ops::TokenShift second(x.slice(1, cut), first.last());
        EXPECT_TRUE(bitwise_equal(
            at::cat({first.mix(share, part(0, cut)), second.mix(share, part(cut, 40))}, 1), y));
      }
    }
}

#endif

}  // namespace
}  // namespace stuffed
