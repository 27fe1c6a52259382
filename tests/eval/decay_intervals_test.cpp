#include "stuffed/eval/decay_intervals.h"

#include <cmath>
#include <limits>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

using testing::close;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// [2,T,H,K|1] of negative numbers from e^-11 to e^1: row 0 is the stream, row 1 must not matter.
Tensor random_decay(int64_t tokens, int64_t heads, int64_t channels, uint64_t seed) {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU).clone();
  generator.set_current_seed(seed);
  const Tensor u = at::rand({2, tokens, heads, channels}, generator);
  const Tensor per_head =
      -(at::arange(heads * channels, at::kFloat).view({heads, channels}) * 1.3 + 1);
  const Tensor decay = -(u * per_head.exp());
  decay[1].fill_(std::numeric_limits<double>::quiet_NaN());
  return decay;
}

ScanInputs inputs_of(const Tensor& decay) {
  const Tensor any = at::zeros({2, decay.size(1), decay.size(2), decay.size(3)});
  return {.q = any, .k = any, .v = any, .log_decay = decay};
}

void feed(DecayIntervals& decays, const ScanInputs& in, std::vector<int64_t> lengths) {
  int64_t begin = 0;
  for (size_t i = 0; begin < in.k.size(1); ++i) {
    const int64_t length = std::min(lengths[i % lengths.size()], in.k.size(1) - begin);
    ScanInputs piece = in;
    piece.k = in.k.narrow(1, begin, length);
    if (in.factored_decay)
      piece.factored_decay->step = in.factored_decay->step.narrow(1, begin, length);
    else
      piece.log_decay = in.log_decay.narrow(1, begin, length);
    decays.on_update({0, begin}, piece, {});
    begin += length;
  }
}

/// Token by token: sums in f64, weights, and tokens lived of each interval. `decay` [T,H,K].
struct BruteForce {
  BruteForce(const Tensor& decay, const std::vector<Interval>& intervals) {
    const Tensor wide = decay.to(at::kDouble).contiguous();
    const auto d = wide.accessor<double, 3>();
    const int64_t heads = d.size(1), channels = d.size(2), n = int64_t(intervals.size());
    mean = at::zeros({1, heads, n}, at::kDouble);
    least = mean.clone(), most = mean.clone(), lived = at::zeros({1, heads, n}, at::kLong);
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < n; ++i) {
        std::vector<double> sums(size_t(channels), 0.0);
        int64_t alive = 0;
        bool below = false;
        const auto average = [&] {
          double sum = 0;
          for (const double log : sums)
            sum += std::exp(log);
          return sum / double(channels);
        };
        for (int64_t t = intervals[size_t(i)].begin; t < intervals[size_t(i)].end; ++t) {
          for (int64_t k = 0; k < channels; ++k)
            sums[size_t(k)] += d[t][h][k];
          below = below || average() < 0.5;
          alive += !below;
        }
        mean[0][h][i] = average();
        least[0][h][i] = std::exp(*std::min_element(sums.begin(), sums.end()));
        most[0][h][i] = std::exp(*std::max_element(sums.begin(), sums.end()));
        lived[0][h][i] = alive;
      }
  }
  Tensor mean, least, most, lived;
};

const std::vector<Interval> kIntervals = {{0, 400}, {1, 2},     {17, 17},   {63, 64},   {64, 128},
                                          {5, 399}, {200, 330}, {128, 400}, {399, 400}, {400, 400}};

void expect_brute_force(const DecayIntervals& decays, const BruteForce& expected) {
  EXPECT_TRUE(close(decays.weights().mean, expected.mean, 1e-12));
  EXPECT_TRUE(close(decays.weights().least, expected.least, 1e-12));
  EXPECT_TRUE(close(decays.weights().most, expected.most, 1e-12));
  EXPECT_TRUE(at::equal(decays.lived(), expected.lived)) << decays.lived() << expected.lived;
}

TEST(DecayIntervals, AgreeWithTokenByTokenSumsHoweverTheStreamIsCut) {
  for (const int64_t channels : {1, 3})
    for (const std::vector<int64_t>& lengths :
         std::vector<std::vector<int64_t>>{{400}, {1}, {64}, {7, 130, 64, 1}}) {
      const Tensor decay = random_decay(400, 4, channels, 7);
      DecayIntervals decays;
      decays.watch(1, kIntervals, kIntervals);
      feed(decays, inputs_of(decay), lengths);
      const BruteForce expected(decay[0], kIntervals);
      // A test that only knows censored or instant half-lives would prove nothing.
      EXPECT_GT(expected.lived.select(2, 0).min().item<int64_t>(), 2);
      EXPECT_LT(expected.lived.select(2, 0).min().item<int64_t>(), 200);
      expect_brute_force(decays, expected);
    }
}

TEST(DecayIntervals, AFactoredDecayIsItsProduct) {
  const Tensor step = random_decay(400, 4, 1, 3).neg().squeeze(-1);            // [2,T,H]
  const Tensor rate = -at::arange(1, 13, at::kFloat).view({4, 3}).exp() / 50;  // [H,K]
  ScanInputs in = inputs_of(at::zeros({2, 400, 4, 3}));
  in.log_decay = Tensor();
  in.factored_decay = FactoredDecay{step, rate, 0};
  DecayIntervals decays;
  decays.watch(1, kIntervals, kIntervals);
  feed(decays, in, {100, 3});
  const Tensor product = step[0].to(at::kDouble).unsqueeze(-1) * rate.to(at::kDouble);
  expect_brute_force(decays, BruteForce(product, kIntervals));
}

TEST(DecayIntervals, ForgettingExactlyIsNotNaN) {
  Tensor decay = random_decay(400, 2, 2, 5);
  decay[0][100][0] = -std::numeric_limits<double>::infinity();
  decay[0][101][0] = -std::numeric_limits<double>::infinity();
  DecayIntervals decays;
  decays.watch(1, kIntervals, kIntervals);
  feed(decays, inputs_of(decay), {64});
  expect_brute_force(decays, BruteForce(decay[0], kIntervals));
  EXPECT_EQ(decays.weights().mean[0][0][0].item<double>(), 0);  // {0, 400} holds the two tokens
  EXPECT_GT(decays.weights().mean[0][0][7].item<double>(), 0);  // {128, 400} does not
}

TEST(DecayIntervals, NaNIsNoShortLife) {
  Tensor decay = random_decay(400, 2, 3, 5);
  decay[0][150][1][2] = std::numeric_limits<float>::quiet_NaN();
  DecayIntervals decays;
  decays.watch(1, kIntervals, kIntervals);
  feed(decays, inputs_of(decay), {64});
  const Tensor lived = decays.lived(), mean = decays.weights().mean;
  for (size_t i = 0; i < kIntervals.size(); ++i) {
    const bool holds = kIntervals[i].begin <= 150 && 150 < kIntervals[i].end;
    EXPECT_EQ(lived[0][1][int64_t(i)].item<int64_t>() == -1, holds);
    EXPECT_EQ(std::isnan(mean[0][1][int64_t(i)].item<double>()), holds);
    EXPECT_GE(lived[0][0][int64_t(i)].item<int64_t>(), 0);
  }
}

TEST(DecayIntervals, SumsAreF64) {  // 2^24 f32 steps of 1e-8 would not move an f32 sum at 1
  const int64_t tokens = 100000;
  Tensor decay = at::full({2, tokens, 1, 1}, -1e-8f);
  decay[0][0] = -1;
  DecayIntervals decays;
  decays.watch(1, {{0, tokens}}, {{0, tokens}});
  feed(decays, inputs_of(decay), {4096});
  const double expected = std::exp(-1 - double(1e-8f) * double(tokens - 1));
  EXPECT_NEAR(decays.weights().mean.item<double>() / expected, 1, 1e-12);
}

// ---- behind mitigations ----

/// Feeds as clamp_norm does: pieces that end at multiples of `every`, then a factor.
void feed_and_rescale(DecayIntervals& decays,
                      const ScanInputs& in,
                      int64_t every,
                      const Tensor& factors) {  // [T/every,H] f64
  for (int64_t i = 0; i < factors.size(0); ++i) {
    ScanInputs piece = in;
    piece.k = in.k.narrow(1, i * every, every);
    piece.log_decay = in.log_decay.narrow(1, i * every, every);
    decays.on_update({0, i * every}, piece, {});
    decays.on_rescale({0, (i + 1) * every}, at::stack({factors[i], factors[i] * kNaN}));
  }
}

TEST(DecayIntervals, WhatRescalesTheStateCountsAfterItsToken) {
  constexpr int64_t kEvery = 25;
  for (const int64_t channels : {1, 3}) {
    const Tensor decay = random_decay(400, 4, channels, 11) * 0.1;
    const Tensor factors =
        at::linspace(0.6, 1, 16 * 4, at::kDouble).view({16, 4}).flip(0).contiguous();
    DecayIntervals decays;
    decays.watch(1, kIntervals, kIntervals);
    feed_and_rescale(decays, inputs_of(decay), kEvery, factors);
    // The factor after token p-1 acts on tokens before p, as a decay of token p-1 would on those
    // before p-1: the last token itself is the one that only the factor meets.
    Tensor all = decay[0].to(at::kDouble).clone();
    for (int64_t i = 0; i < 16; ++i)
      all[(i + 1) * kEvery - 1] += factors[i].log().unsqueeze(-1);
    const BruteForce expected(all, kIntervals);
    const Tensor mean = decays.weights().mean;
    for (size_t i = 0; i < kIntervals.size(); ++i) {
      const Interval interval = kIntervals[i];
      const auto at = int64_t(i);
      const bool begins_at_factor = interval.begin > 0 && interval.begin % kEvery == 0;
      const Tensor extra =
          begins_at_factor ? factors[interval.begin / kEvery - 1] : at::ones({4}, at::kDouble);
      EXPECT_TRUE(close(mean[0].select(1, at), expected.mean[0].select(1, at) * extra, 1e-12))
          << interval.begin << " to " << interval.end;
      EXPECT_TRUE(at::equal(decays.lived()[0].select(1, at), expected.lived[0].select(1, at)))
          << interval.begin << " to " << interval.end;
    }
    EXPECT_GT(expected.lived.select(2, 0).max().item<int64_t>(), kEvery);
  }
}

TEST(DecayIntervals, AFactoredDecaysOffsetIsInNats) {
  const Tensor step = random_decay(400, 4, 1, 3).neg().squeeze(-1) * 0.1;
  const Tensor rate = -at::arange(1, 13, at::kFloat).view({4, 3}).exp() / 500;
  ScanInputs in = inputs_of(at::zeros({2, 400, 4, 3}));
  in.log_decay = Tensor();
  in.factored_decay = FactoredDecay{step, rate, std::log(0.995)};
  DecayIntervals decays;
  decays.watch(1, kIntervals, kIntervals);
  feed(decays, in, {100, 3});
  const Tensor log_decay =
      step[0].to(at::kDouble).unsqueeze(-1) * rate.to(at::kDouble) + std::log(0.995);
  expect_brute_force(decays, BruteForce(log_decay, kIntervals));
  EXPECT_TRUE(close(decays.alpha().mean[0], log_decay.exp().mean(at::IntArrayRef({0, 2})), 1e-12));
  EXPECT_TRUE(
      close(decays.alpha().geometric[0], log_decay.mean(at::IntArrayRef({0, 2})).exp(), 1e-12));
}

TEST(DecayIntervals, NothingSurvivesThatHasLeftTheWindow) {
  const Tensor decay = random_decay(400, 4, 3, 11) * 0.01;
  DecayIntervals plain, window;
  plain.watch(1, kIntervals, kIntervals);
  window.watch(1, kIntervals, kIntervals, 64);
  for (DecayIntervals* decays : {&plain, &window})
    feed(*decays, inputs_of(decay), {64});
  for (size_t i = 0; i < kIntervals.size(); ++i) {
    const auto at = int64_t(i);
    // A token and the 63 behind it are a window of 64.
    const bool left = kIntervals[i].end - kIntervals[i].begin >= 64;
    const Tensor weight = window.weights().mean.select(2, at);
    EXPECT_TRUE(
        at::equal(weight, left ? at::zeros_like(weight) : plain.weights().mean.select(2, at)));
    EXPECT_TRUE(at::equal(window.lived().select(2, at), plain.lived().select(2, at).clamp_max(63)));
  }
  EXPECT_GT(plain.lived().max().item<int64_t>(), 64);
}

TEST(DecayIntervals, MeanAlphaIsNotTheGeometricMean) {
  for (const int64_t channels : {1, 3}) {
    const Tensor decay = random_decay(400, 4, channels, 7);
    DecayIntervals decays;
    decays.watch(1, {{0, 400}}, {});
    feed(decays, inputs_of(decay), {7, 130});
    const Tensor wide = decay[0].to(at::kDouble);
    EXPECT_TRUE(close(decays.alpha().mean[0], wide.exp().mean(at::IntArrayRef({0, 2})), 1e-12));
    EXPECT_TRUE(
        close(decays.alpha().geometric[0], wide.mean(at::IntArrayRef({0, 2})).exp(), 1e-12));
    const Tensor above = decays.alpha().mean - decays.alpha().geometric;
    EXPECT_GE(above.min().item<double>(), -1e-12);  // never below it
    EXPECT_GT(above.max().item<double>(), 1e-4);    // and above, where the decays differ
  }
}

/// A model under mitigations: the inner observer's decays are those of the changed inputs.
TEST(DecayIntervals, SeeWhatTheMitigationsMakeOfTheModelsOwn) {
  at::NoGradGuard no_grad;
  for (const char* name : {"mamba2-hf", "mamba1-hf", "rwkv6-hf", "hgrn2-fla"}) {
    const auto model = load_model(testing::golden_path(name));
    const int64_t layers = model->config().layers, heads = model->config().heads;
    const Tensor tokens = testing::Golden(name).get("tokens").narrow(1, 0, 96);
    DecayIntervals own, inner;
    for (DecayIntervals* decays : {&own, &inner})
      decays->watch(layers, {{1, 96}}, {});
    const Tensor limits = at::full({layers, heads}, 1e-3, at::kDouble);
    const auto rule =
        build_recurrence({.mitigations = {"scale_gates:decay=0.99", "clamp_norm:limits=x,every=32"},
                          .observer = &own,
                          .read_limits = [&](const std::string&) { return limits; }},
                         &inner);
    State state = model->initial_state(1);
    model->forward(tokens, state, *rule);
    const Tensor plain = own.weights().mean, mitigated = inner.weights().mean;
    // 95 decays of 0.99, then the clamps of every 32 tokens, which leave no head above its limit.
    EXPECT_TRUE((mitigated <= plain * std::pow(0.99, 95) * (1 + 1e-4)).all().item<bool>()) << name;
    EXPECT_LT((mitigated / (plain * std::pow(0.99, 95))).nan_to_num(1).min().item<double>(), 0.9)
        << name;
    EXPECT_TRUE((inner.alpha().mean <= own.alpha().mean * 0.99 * (1 + 1e-4)).all().item<bool>())
        << name;
    EXPECT_TRUE((inner.alpha().mean >= own.alpha().mean * 0.99 * (1 - 1e-6)).all().item<bool>())
        << name;
  }
}

TEST(DecayIntervals, SayWhetherAnErasureWasLeftOut) {
  const auto erases = [](const char* name) {
    const auto model = load_model(testing::golden_path(name));
    DecayIntervals decays;
    decays.watch(model->config().layers, {{1, 4}}, {});
    State state = model->initial_state(1);
    model->forward(at::zeros({1, 4}, at::kLong), state,
                   *build_recurrence({.mitigations = {}, .observer = &decays}));
    EXPECT_TRUE(decays.weights().mean.isfinite().all().item<bool>());
    return decays.erases();
  };
  EXPECT_TRUE(erases("rwkv7-pth"));
  EXPECT_FALSE(erases("rwkv6-pth"));
}

}  // namespace
}  // namespace stuffed::eval
