// The fused CPU loops against the same ops in f64 through ATen, which is what they are under
// autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/common/levels.h"
#include "kernels/common/rows.h"
#include "kernels/common/testing.h"
#include "stuffed/ops/linear.h"
#include "stuffed/ops/linear_cross_entropy.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"
#include "stuffed/ops/step_gates.h"

namespace stuffed {
namespace {

using testing::bitwise_equal;
using testing::bound_of;
using testing::close;
using testing::wide;

TEST(CpuRows, LogSumExpTakesAnyNumbers) {
  at::manual_seed(1);
  const float inf = std::numeric_limits<float>::infinity();
  for (const int64_t n : {1, 31, 32, 33, 1000, 50277})
    for (const double scale : {0.0, 1.0, 30.0, 1e4}) {
      const Tensor x = at::randn({n}) * scale;
      EXPECT_NEAR(kernels::log_sum_exp_row(x.const_data_ptr<float>(), n),
                  at::logsumexp(wide(x), 0).item<double>(),
                  2e-6 * (1 + x.abs().max().item<double>()));
    }
  for (const int64_t n : {5, 64}) {
    Tensor x = at::full({n}, -inf);
    EXPECT_EQ(kernels::log_sum_exp_row(x.const_data_ptr<float>(), n), -inf);
    x[3] = 2.5;
    EXPECT_FLOAT_EQ(kernels::log_sum_exp_row(x.const_data_ptr<float>(), n), 2.5F);
    x[2] = inf;
    EXPECT_EQ(kernels::log_sum_exp_row(x.const_data_ptr<float>(), n), inf);
    x[1] = NAN;
    EXPECT_TRUE(std::isnan(kernels::log_sum_exp_row(x.const_data_ptr<float>(), n)));
  }
}

TEST(CpuRows, StoringRoundsAsATenDoes) {
  Tensor x = at::cat({at::randn({1000}) * 1e3, at::randn({1000}) * 1e-39,
                      at::tensor({0.0F, -0.0F, INFINITY, -INFINITY})});
  Tensor rounded = at::empty({x.size(0)}, at::kBFloat16), back = at::empty_like(x);
  kernels::store_row(x.const_data_ptr<float>(), rounded.data_ptr<at::BFloat16>(), x.size(0));
  EXPECT_TRUE(bitwise_equal(rounded, x.to(at::kBFloat16)));
  kernels::load_row(rounded.const_data_ptr<at::BFloat16>(), back.data_ptr<float>(), x.size(0));
  EXPECT_TRUE(bitwise_equal(back, rounded.to(at::kFloat)));
  const float nan = NAN;
  at::BFloat16 stored = 0;
  kernels::store_row(&nan, &stored, 1);
  EXPECT_TRUE(std::isnan(static_cast<float>(stored)));
}

TEST(CpuRows, StepGatesAgree) {
  at::manual_seed(4);
  const Tensor bias = at::randn({24}), a_log = at::rand({24});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const double scale : {1.0, 30.0, 1e4})
      for (const int64_t T : {1, 3, 40}) {
        const Tensor raw = (at::randn({1, T, 30}) * scale).to(type).narrow(2, 4, 24);
        const auto actual = ops::step_gates(raw, bias, a_log, 1e-3, 5.0);
        const Tensor dt = at::softplus(wide(raw) + wide(bias)).clamp(1e-3, 5.0);
        EXPECT_TRUE(close(actual.dt, dt, 1e-6)) << T;
        EXPECT_TRUE(close(actual.log_decay, dt * -wide(a_log).exp(), 1e-6)) << T;
        const double most = std::numeric_limits<double>::infinity();
        EXPECT_TRUE(close(ops::step_gates(raw, bias, a_log, 0, most).dt,
                          at::softplus(wide(raw) + wide(bias)), 1e-6));
      }
  const Tensor nan = at::full({1, 1, 24}, NAN);
  EXPECT_TRUE(ops::step_gates(nan, bias, a_log, 0, 5).dt.isnan().all().item<bool>());
}

TEST(CpuRows, ShortConvolutionsAgree) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const int64_t T : {1, 2, 3, 64, 65, 200})
      for (const bool silu : {false, true}) {
        const Tensor x = (at::randn({2, T, 50}) * 3).to(type).narrow(2, 4, 37);
        const Tensor weight = at::randn({37, 4}), bias = at::randn({37});
        const Tensor columns = at::randn({2, 37, 3}).to(type);
        const auto actual = ops::short_conv(x, weight, bias, columns, silu);
        const auto expected =
            ops::short_conv(wide(x), wide(weight), wide(bias), wide(columns), silu);
        EXPECT_TRUE(close(actual.y, expected.y, bound_of(type))) << T;
        EXPECT_TRUE(bitwise_equal(wide(actual.columns), expected.columns)) << T;
        EXPECT_TRUE(actual.columns.is_contiguous());
      }
}

TEST(CpuRows, GatedNormsWithASkipAgree) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const int64_t weights : {96, 6}) {  // one per channel, one per head
      const Tensor y = at::randn({2, 20, 96}).to(type), z = at::randn({2, 20, 96}).to(type);
      const Tensor x = at::randn({2, 20, 200}).to(type).narrow(2, 50, 96);
      const Tensor weight = at::randn({96}), skip = at::randn({weights});
      const Tensor whole = wide(y) + wide(x) * wide(skip.repeat_interleave(96 / weights));
      const Tensor expected = ops::gated_rms_norm(whole, wide(z), wide(weight), 3, 1e-5, false);
      const Tensor trained = skip.clone().requires_grad_();  // takes ATen's passes
      for (const Tensor& d : {skip, trained})
        EXPECT_TRUE(close(ops::gated_rms_norm(y, z, weight, 3, 1e-5, false, {x, d}), expected,
                          2 * bound_of(type)))
            << weights;
    }
}

TEST(CpuRows, OnlyAGatedNormsOwnInputIsWrittenOver) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Tensor z = at::randn({1, 20, 96}).to(type), weight = at::randn({96});
    const Tensor kept = at::randn({1, 20, 96}).to(type), before = kept.clone();
    const auto norm = [&](Tensor y) {
      return ops::gated_rms_norm(std::move(y), z, weight, 3, 1e-5, false);
    };
    const Tensor expected = norm(kept), viewed = norm(kept.view({1, 20, 96}));
    EXPECT_TRUE(bitwise_equal(kept, before)) << "a tensor or view of it that others hold";
    Tensor own = kept.clone();
    const void* const memory = own.const_data_ptr();
    const Tensor reused = norm(std::move(own));
    EXPECT_EQ(reused.const_data_ptr(), memory);
    EXPECT_TRUE(bitwise_equal(reused, expected));
    EXPECT_TRUE(bitwise_equal(viewed, expected));
  }
}

TEST(CpuRows, NormsAgree) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const int64_t groups : {1, 3})
      for (const bool norm_before_gate : {false, true}) {
        const Tensor y = at::randn({2, 20, 96}).to(type) * 5;
        const Tensor z = at::randn({2, 20, 200}).to(type).narrow(2, 50, 96);
        const Tensor weight = at::randn({96});
        const Tensor trained = weight.clone().requires_grad_();  // takes ATen's passes
        EXPECT_TRUE(close(ops::gated_rms_norm(y, z, weight, groups, 1e-5, norm_before_gate),
                          ops::gated_rms_norm(y, z, trained, groups, 1e-5, norm_before_gate),
                          bound_of(type)));
        for (const at::ScalarType out : {at::kFloat, at::kBFloat16})
          EXPECT_TRUE(close(ops::rms_norm(y, weight, 1e-5, out),
                            ops::rms_norm(y, trained, 1e-5, out), bound_of(out)));
      }
}

ops::Linear packed_like(const ops::Linear& plain) {
  ops::Linear packed = plain;
  packed.pack(/*drop=*/true);
  return packed;
}

ops::Linear random_layer(int64_t out, int64_t in, at::ScalarType type) {
  return {.weight = at::randn({out, in}).to(type),
          .bias = at::randn({out}),
          .packed = {},
          .blocks = {}};
}

TEST(CpuRows, PackedWeightsMultiplyLikePlainOnes) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{70, 33}, {130, 256}, {200, 1024}}) {
      const ops::Linear plain = random_layer(out, in, type), packed = packed_like(plain);
      EXPECT_EQ(packed.out_features(), out);
      EXPECT_EQ(packed.in_features(), in);
      for (const int64_t rows : {1, 2, 4, 5, 7, 300}) {
        const Tensor x = at::randn({2, rows, in}).to(type);
        EXPECT_TRUE(close(ops::linear(x, packed),
                          at::linear(wide(x), wide(plain.weight), wide(plain.bias)),
                          bound_of(type)))
            << rows;
        EXPECT_EQ(ops::linear(x, packed).scalar_type(), type);
      }
    }
}

TEST(CpuRows, AFewRowsAreWhatEachIsAlone) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const ops::Linear packed = packed_like(random_layer(200, 1024, type));
    if (!packed.blocks.data)
      GTEST_SKIP() << "the packed weights do not lie in blocks on this processor";
    const Tensor x = at::randn({1, 8, 1024}).to(type);
    const Tensor together = ops::linear(x, packed);
    for (int64_t r = 0; r < 8; ++r)
      EXPECT_TRUE(bitwise_equal(together.narrow(1, r, 1), ops::linear(x.narrow(1, r, 1), packed)));
  }
}

// If it fails after a new LibTorch, decoding is slower than it could be, and nothing else.
TEST(CpuRows, PackedWeightsLieInBlocksWithAvx512) {
#if defined(__x86_64__) && !defined(__clang__)  // whose builtin does not know AMX
  if (kernels::levels_lacking() > 0 || !__builtin_cpu_supports("avx512bf16") ||
      __builtin_cpu_supports("amx-tile"))
    GTEST_SKIP()
        << "this processor has no AVX-512 with bf16; or it has AMX, for which oneDNN may lay "
           "weights out otherwise";
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    EXPECT_TRUE(packed_like(random_layer(200, 1024, type)).blocks.data);
#endif
}

}  // namespace
}  // namespace stuffed
