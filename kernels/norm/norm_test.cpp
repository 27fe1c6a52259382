// Every form of the norms against the reference; the CUDA kernel through views, and what must hold bit for bit.
#include "kernels/norm/norm.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_rows.h"
#include "kernels/common/cuda_testing.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(Norms, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("norm", {"fast", "aten"}, {"cuda", "aten"});
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

TEST_F(CudaLayer, NormsAgree) {
  for (const auto type : kTypes)
    for (const auto out : kTypes)
      for (const int64_t D : {4, 60, 64, 100, 128, 260, 512, 768, 1024, 2048, 2052, 4096, 8192}) {
        const Tensor x = view(2, 5, D, type, 3) + 0.5, weight = parameter({D}),
                     bias = parameter({D});
        const Tensor strided = view(2, 5, D, type, 3).add_(0.5);
        for (const Tensor& input : {x, strided}) {
          const Tensor f64 = wide(input);
          const Tensor rms = f64 / (f64.square().mean(-1, true) + 1e-5).sqrt() * wide(weight);
          ASSERT_TRUE(kernels::takes_cuda_rows({input}));
          poison(input);
          EXPECT_TRUE(close(ops::rms_norm(input, weight, 1e-5, out), rms, bound_of(out))) << D;
          poison(input);
          EXPECT_TRUE(close(ops::layer_norm(input, weight, bias, 1e-5, out),
                            at::layer_norm(f64, {D}, wide(weight), wide(bias), 1e-5),
                            bound_of(out)))
              << D;
        }
      }
}

TEST_F(CudaLayer, ALargeMeanCostsALayerNormNoDigits) {
  const Tensor x = view(1, 3, 2048, at::kFloat).add_(1000), weight = parameter({2048}),
               bias = parameter({2048});
  // An f32 near 1000 is known to 3e-5 only; the norm of these very numbers is asked for.
  EXPECT_TRUE(close(ops::layer_norm(x, weight, bias, 1e-5, at::kFloat),
                    at::layer_norm(wide(x), {2048}, wide(weight), wide(bias), 1e-5), 1e-4));
}

TEST_F(CudaLayer, GroupNormsWithAGateAgree) {
  for (const auto type : kTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {32, 64}, {3, 128}, {2, 600}})
      for (const bool gated : {false, true}) {
        const int64_t D = heads * width;
        const Tensor x = view(2, 7, D, type), gate = gated ? view(2, 7, D, type) : Tensor();
        const Tensor weight = parameter({D}), bias = parameter({D});
        const Tensor normal =
            at::layer_norm(wide(x).unflatten(-1, {heads, width}), {width}, {}, {}, 64e-5)
                .flatten(-2);
        Tensor expected = normal * wide(weight) + wide(bias);
        if (gated)
          expected = expected * at::silu(wide(gate));
        poison(x);
        EXPECT_TRUE(
            close(ops::group_norm(x, heads, weight, bias, 64e-5, gate), expected, bound_of(type)))
            << heads << ' ' << width;
      }
}

TEST_F(CudaLayer, GatedNormsWithASkipAgree) {
  for (const auto type : kTypes)
    for (const int64_t groups : {1, 8})
      for (const bool norm_first : {false, true})
        for (const int64_t skips : {0, 16, 1024})  // weights: none, one per head, one per channel
          for (const bool has_norm : {false, true}) {
            const int64_t D = 1024;
            const Tensor y = view(2, 5, D, type), z = view(2, 5, D, type), x = view(2, 5, D, type);
            const Tensor weight = has_norm ? parameter({D}) : Tensor();
            const ops::Skip skip = skips > 0 ? ops::Skip{x, parameter({skips})} : ops::Skip{};
            Tensor g = wide(y), gate = at::silu(wide(z));
            if (skips > 0)
              g = g + wide(x) * wide(skip.weight.repeat_interleave(D / skips));
            if (!norm_first)
              g = g * gate;
            if (has_norm) {
              const Tensor parts = g.unflatten(-1, {groups, -1});
              g = (parts / (parts.square().mean(-1, true) + 1e-5).sqrt()).flatten(-2) *
                  wide(weight);
            }
            if (norm_first)
              g = g * gate;
            poison(y);
            EXPECT_TRUE(close(ops::gated_rms_norm(y, z, weight, groups, 1e-5, norm_first, skip), g,
                              bound_of(type)))
                << groups << ' ' << skips;
          }
}

TEST_F(CudaLayer, ARowsNormIsTheSameBitsInAnyBatch) {
  const Tensor x = view(4, 33, 2048, at::kBFloat16), weight = parameter({2048});
  const Tensor all = ops::rms_norm(x, weight, 1e-5, at::kBFloat16);
  const Tensor one = ops::rms_norm(x.narrow(0, 2, 1).narrow(1, 9, 1), weight, 1e-5, at::kBFloat16);
  EXPECT_TRUE(bitwise_equal(one, all.narrow(0, 2, 1).narrow(1, 9, 1)));
}

TEST_F(CudaLayer, WhatTheKernelsDoNotTakeIsComputedOtherwise) {
  const Tensor weight = parameter({6});
  const Tensor narrow = view(1, 3, 6, at::kFloat);  // not a multiple of four
  EXPECT_FALSE(kernels::takes_cuda_rows({narrow}));
  const Tensor f64 = wide(narrow);
  EXPECT_TRUE(close(ops::rms_norm(narrow, weight, 1e-5, at::kFloat),
                    f64 / (f64.square().mean(-1, true) + 1e-5).sqrt() * wide(weight), 1e-6));
  const Tensor odd = view(1, 3, 32, at::kFloat).narrow(2, 1, 28);  // rows begin off a group
  EXPECT_FALSE(kernels::takes_cuda_rows({odd}));
  EXPECT_TRUE(close(ops::relu_square(odd), at::relu(wide(odd)).square(), 1e-6));
  EXPECT_FALSE(kernels::takes_cuda_rows({view(1, 3, 8, at::kFloat), view(1, 3, 8, at::kBFloat16)}));
  at::AutoGradMode with_grad(true);
  EXPECT_FALSE(kernels::takes_cuda_rows({view(1, 3, 8, at::kFloat).clone().requires_grad_()}));
}

TEST_F(CudaLayer, RowsBeyondTwoToThe31ElementsAreReached) {
  // Two rows, 2^31 + 64 elements apart: a 32-bit offset would wrap.
  const int64_t apart = (int64_t{1} << 31) + 64;
  const Tensor parent =
      at::full({apart + 64}, NAN, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  Tensor x = parent.as_strided({1, 2, 64}, {2 * apart, apart, 1});
  x.copy_(at::randn({1, 2, 64}));
  const Tensor weight = parameter({64}), f64 = wide(x);
  EXPECT_TRUE(close(ops::rms_norm(x, weight, 1e-5, at::kFloat),
                    f64 / (f64.square().mean(-1, true) + 1e-5).sqrt() * wide(weight), 1e-6));
  EXPECT_TRUE(close(ops::relu_square(x), at::relu(f64).square(), 4e-3));
  const Tensor taps = parameter({64, 4}), columns = at::zeros({1, 64, 3}, x.options());
  EXPECT_TRUE(close(ops::short_conv(x, taps, {}, columns, false).y,
                    ops::short_conv(f64, wide(taps), {}, wide(columns), false).y, 4e-3));
}

#endif

}  // namespace
}  // namespace stuffed
