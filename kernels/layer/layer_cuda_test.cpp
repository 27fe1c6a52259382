// The layer kernels against f64 on the CPU, through views of a wide parent full of NaN; and what
// must hold bit for bit.
//
// Building with -DCMAKE_CUDA_FLAGS=-DSTUFFED_BREAK_LAYER=1 makes norms and convolutions 1 % too
// large: then CudaLayer.NormsAgree and ShortConvolutionsAgree must fail.
#include "kernels/layer/layer_cuda.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/delta_rule.h"
#include "stuffed/ops/linear_cross_entropy.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"
#include "stuffed/ops/step_gates.h"
#include "stuffed/ops/token_shift.h"

#if STUFFED_WITH_CUDA

namespace stuffed {
namespace {

using testing::bitwise_equal;
using testing::bound_of;
using testing::close;
using testing::wide;

constexpr std::array kTypes = {at::kFloat, at::kBFloat16};

/// [B,T,C] inside a wider parent whose other columns are NaN.
Tensor view(int64_t B, int64_t T, int64_t C, at::ScalarType type, double scale = 1) {
  Tensor parent = at::full({B, T, C + 24}, NAN, at::TensorOptions(type).device(at::kCUDA));
  Tensor x = parent.narrow(2, 8, C);
  x.copy_(at::randn({B, T, C}) * scale);
  return x;
}

Tensor parameter(at::IntArrayRef shape) {
  return at::randn(shape).to(at::kCUDA);
}

/// Memory that the next result will probably reuse holds NaN, so an element nobody wrote shows.
void poison(const Tensor& like) {
  const Tensor a = at::full(like.sizes(), NAN, like.options());
  const Tensor b = at::full(like.sizes(), NAN, like.options().dtype(at::kFloat));
}

class CudaLayer : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(7); }
  at::NoGradGuard no_grad_;
};

TEST_F(CudaLayer, ShortConvolutionsAgree) {
  for (const auto type : kTypes)
    for (const int64_t T : {1, 2, 3, 4, 15, 16, 17, 64, 1000})
      for (const int64_t W : {2, 3, 4})
        for (const bool silu : {false, true}) {
          const Tensor x = view(2, T, 332, type, 3),
                       columns = view(2, 332, W - 1, at::kFloat).to(type);
          const Tensor weight = parameter({332, W}), bias = silu ? parameter({332}) : Tensor();
          ASSERT_TRUE(kernels::layer_cuda_takes({x}));
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
          ASSERT_TRUE(kernels::layer_cuda_takes({input}));
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

/// What delta_rule_gates is to make, written down once more in f64.
DeltaRuleGates delta_rule_f64(const DeltaRuleStreams& in, const DeltaRuleParameters& p) {
  const int64_t heads = p.bonus.size(0), width = p.bonus.size(1);
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, {heads, width}); };
  const Tensor key = wide(in.key), rate = at::sigmoid(wide(in.rate) + wide(p.rate_base));
  const Tensor direction = to_heads(key * wide(p.read_scale));
  const Tensor read = direction / direction.square().sum(-1, true).sqrt().clamp_min(1e-12);
  const Tensor weaker = key * (1 + (rate - 1) * wide(p.rate_scale));
  Tensor value = wide(in.value);
  if (p.value_base.defined())
    value = value +
            (wide(in.first_value) - value) * at::sigmoid(wide(in.value_mix) + wide(p.value_base));
  return {.key = weaker,
          .value = value,
          .read = read.flatten(-2),
          .write = (read * to_heads(rate)).flatten(-2),
          .log_decay = -0.606531 * at::sigmoid(wide(in.decay) + wide(p.decay_base)),
          .strength = (to_heads(wide(in.query)) * to_heads(weaker) * wide(p.bonus)).sum(-1)};
}

TEST_F(CudaLayer, DeltaRuleGatesAgree) {
  for (const auto type : kTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {32, 64}, {3, 128}, {5, 60}, {2, 4}})
      for (const bool mixes : {false, true}) {
        const int64_t D = heads * width;
        const auto stream = [&, D = D] { return view(2, 7, D, type, 2); };
        DeltaRuleStreams in{.query = stream(),
                            .key = stream(),
                            .value = stream(),
                            .decay = stream(),
                            .rate = stream()};
        in.key[0][0].zero_();  // a direction without a length
        if (mixes)
          in.value_mix = stream(), in.first_value = stream();
        const DeltaRuleParameters p{.decay_base = parameter({D}),
                                    .rate_base = parameter({D}),
                                    .value_base = mixes ? parameter({D}) : Tensor(),
                                    .read_scale = parameter({D}),
                                    .rate_scale = parameter({D}),
                                    .bonus = parameter({heads, width})};
        poison(in.key);
        const auto actual = ops::delta_rule_gates(in, p);
        const auto expected = delta_rule_f64(in, p);
        const double bound = bound_of(type);
        EXPECT_TRUE(close(actual.key, expected.key, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.value, expected.value, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.read, expected.read, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.write, expected.write, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.log_decay, expected.log_decay, 1e-6)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.strength, expected.strength, 1e-6)) << heads << ' ' << width;
      }
}

TEST_F(CudaLayer, DeltaRuleOutputsAgree) {
  for (const auto type : kTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {32, 64}, {3, 128}, {5, 60}}) {
      const int64_t D = heads * width;
      const Tensor y = view(2, 7, D, type), value = view(2, 7, D, type), gate = view(2, 7, D, type);
      const Tensor strength = parameter({2, 7, heads}), weight = parameter({D}),
                   bias = parameter({D});
      const Tensor normal =
          at::layer_norm(wide(y).unflatten(-1, {heads, width}), {width}, {}, {}, 64e-5).flatten(-2);
      const Tensor now =
          (wide(strength).unsqueeze(-1) * wide(value).unflatten(-1, {heads, width})).flatten(-2);
      poison(y);
      EXPECT_TRUE(close(ops::delta_rule_output(y, value, strength, gate, weight, bias, 64e-5),
                        (normal * wide(weight) + wide(bias) + now) * wide(gate), bound_of(type)))
          << heads << ' ' << width;
    }
}

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
      EXPECT_EQ(kernels::shift_mixes_cuda_takes(x, low, factors), rank != 24);
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

TEST_F(CudaLayer, LossesOfRowsAgree) {
  for (const auto type : kTypes)
    for (const int64_t vocab : {1, 7, 256, 1000, 50277})
      for (const double scale : {1.0, 100.0}) {
        const Tensor logits = view(1, 9, (vocab + 15) / 8 * 8, type, scale)[0];
        const Tensor targets = at::randint(vocab, {9}, at::kLong).to(at::kCUDA);
        poison(logits);
        const Tensor f64 = wide(logits).narrow(1, 0, vocab);
        const Tensor expected =
            at::logsumexp(f64, 1) - f64.gather(1, targets.to(at::kCPU).unsqueeze(1)).squeeze(1);
        const Tensor actual = kernels::nll_cuda(logits, vocab, targets);
        EXPECT_LT((wide(actual) - expected).abs().max().item<double>(),
                  2e-6 * (1 + f64.abs().max().item<double>()))
            << vocab;
      }
}

TEST_F(CudaLayer, LossesOfRowsTakeInfinitiesAsTheyAre) {
  const float inf = std::numeric_limits<float>::infinity();
  Tensor logits = at::randn({4, 1000});
  logits[0].narrow(0, 0, 999).fill_(-inf);  // one number left
  logits[1][5] = inf;
  logits[2][5] = NAN;
  logits[3].narrow(0, 1, 999).fill_(-1e30);
  const Tensor targets = at::tensor({999, 3, 3, 0}, at::kLong);
  const Tensor nll = kernels::nll_cuda(logits.to(at::kCUDA), 1000, targets.to(at::kCUDA)).cpu();
  EXPECT_EQ(nll[0].item<float>(), 0);
  EXPECT_EQ(nll[1].item<float>(), inf);
  EXPECT_TRUE(std::isnan(nll[2].item<float>()));
  EXPECT_EQ(nll[3].item<float>(), 0);
}

TEST_F(CudaLayer, WhatTheKernelsDoNotTakeIsComputedOtherwise) {
  const Tensor weight = parameter({6});
  const Tensor narrow = view(1, 3, 6, at::kFloat);  // not a multiple of four
  EXPECT_FALSE(kernels::layer_cuda_takes({narrow}));
  const Tensor f64 = wide(narrow);
  EXPECT_TRUE(close(ops::rms_norm(narrow, weight, 1e-5, at::kFloat),
                    f64 / (f64.square().mean(-1, true) + 1e-5).sqrt() * wide(weight), 1e-6));
  const Tensor odd = view(1, 3, 32, at::kFloat).narrow(2, 1, 28);  // rows begin off a group
  EXPECT_FALSE(kernels::layer_cuda_takes({odd}));
  EXPECT_TRUE(close(ops::relu_square(odd), at::relu(wide(odd)).square(), 1e-6));
  EXPECT_FALSE(
      kernels::layer_cuda_takes({view(1, 3, 8, at::kFloat), view(1, 3, 8, at::kBFloat16)}));
  at::AutoGradMode with_grad(true);
  EXPECT_FALSE(kernels::layer_cuda_takes({view(1, 3, 8, at::kFloat).clone().requires_grad_()}));
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

}  // namespace
}  // namespace stuffed

#endif
