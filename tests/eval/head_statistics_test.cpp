// Every statistic of a head against plain loops in f64.
#include "src/eval/state_stats/head_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/common/testing.h"

namespace stuffed::eval {
namespace {

using testing::close;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Tensor random(std::vector<int64_t> shape, uint64_t seed = 1) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kFloat));
}

std::vector<double> values_of(const Tensor& x) {
  const Tensor flat = x.to(at::kDouble).contiguous().view(-1);
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

/// In the order of kStateStatistics.
std::vector<double> by_hand(std::vector<double> x) {
  const auto n = static_cast<double>(x.size());
  double sum = 0, squares = 0, deviations = 0, largest = 0;
  for (const double value : x) {
    sum += value;
    squares += value * value;
    largest = std::max(largest, std::abs(value));
  }
  for (const double value : x)
    deviations += (value - sum / n) * (value - sum / n);
  std::sort(x.begin(), x.end());
  return {sum / n, deviations / (n - 1),  std::sqrt(squares / n), x.back(),
          largest, x[(x.size() - 1) / 2], std::sqrt(squares)};
}

TEST(StateStatistics, EqualPlainLoops) {
  for (const auto& shape : {std::vector<int64_t>{3, 5, 4}, {2, 3, 3}, {4, 16, 1}}) {
    const Tensor state = random(shape) * 100 - 60;
    const std::vector<Tensor> actual = state_statistics(state);
    ASSERT_EQ(actual.size(), kStateStatistics.size());
    for (int64_t head = 0; head < shape[0]; ++head) {
      const std::vector<double> expected = by_hand(values_of(state[head]));
      for (size_t i = 0; i < actual.size(); ++i) {
        EXPECT_EQ(actual[i].scalar_type(), at::kDouble);
        EXPECT_NEAR(actual[i][head].item<double>(), expected[i], 1e-12 * std::abs(expected[i]))
            << kStateStatistics.at(i);
      }
    }
  }
}

TEST(StateStatistics, LargeStatesDoNotOverflowAndNaNShowsEverywhere) {
  Tensor state = at::full({2, 4, 4}, 3e38f);
  state[0][0][0] = -3e38f;
  state[1][2][3] = static_cast<float>(kNaN);
  const std::vector<Tensor> actual = state_statistics(state);
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(std::isfinite(actual[i][0].item<double>())) << kStateStatistics.at(i);
    EXPECT_TRUE(std::isnan(actual[i][1].item<double>())) << kStateStatistics.at(i);
  }
}

TEST(EffectiveRank, IsExpOfTheEntropyOfSingularValues) {
  EXPECT_NEAR(effective_rank(at::eye(6).unsqueeze(0) * 7).item<double>(), 6, 1e-12);
  const Tensor two = at::diag(at::tensor({3.0, 1.0})).unsqueeze(0);
  EXPECT_NEAR(effective_rank(two).item<double>(),
              std::exp(-0.75 * std::log(0.75) - 0.25 * std::log(0.25)), 1e-12);
  const Tensor outer = random({8, 1}) * random({1, 5}, 2);
  EXPECT_NEAR(effective_rank(outer.unsqueeze(0)).item<double>(), 1, 1e-4);
  for (const auto& shape : {std::vector<int64_t>{3, 9, 4}, {3, 4, 9}, {2, 16, 16}}) {
    const Tensor state = random(shape);
    const Tensor sigma = at::linalg_svdvals(state.to(at::kDouble));
    const Tensor p = sigma / sigma.sum(-1, true);
    EXPECT_TRUE(close(effective_rank(state), (-(p * p.log()).sum(-1)).exp(), 1e-7));
  }
}

TEST(EffectiveRank, OfAVectorIsOneAndOfNothingIsNaN) {
  EXPECT_TRUE(at::equal(effective_rank(random({3, 16, 1})), at::ones({3}, at::kDouble)));
  for (const int64_t width : {1, 4}) {
    Tensor state = random({4, 5, width});
    state[0].zero_();
    state[1][3][0] = static_cast<float>(kNaN);
    state[2][3][0] = std::numeric_limits<float>::infinity();
    const Tensor rank = effective_rank(state);
    EXPECT_TRUE(rank.narrow(0, 0, 3).isnan().all().item<bool>());
    EXPECT_GE(rank[3].item<double>(), 1);
  }
  EXPECT_NEAR(effective_rank(at::eye(3).unsqueeze(0) * 1e-30).item<double>(), 3, 1e-12);
}

struct Moments {
  double mean = 0, variance = 0;
};

Moments moments(const std::vector<double>& x) {
  Moments m;
  for (const double value : x)
    m.mean += value / static_cast<double>(x.size());
  for (const double value : x)
    m.variance += (value - m.mean) * (value - m.mean) / (static_cast<double>(x.size()) - 1);
  return m;
}

TEST(ChannelMoments, AverageOverTokensWhateverTheCuts) {
  const int64_t T = 13, H = 3, N = 5;
  const Tensor x = random({1, T, H, N}) + 10;
  for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{13}, {1, 5, 7}, {6, 7}}) {
    ChannelMoments sums;
    int64_t begin = 0;
    for (const int64_t length : cuts) {
      sums.add(x.narrow(1, begin, length));
      begin += length;
    }
    const ChannelMoments::Result actual = sums.result();
    Moments layer;
    std::vector<Moments> heads(H);
    for (int64_t t = 0; t < T; ++t) {
      const Moments all = moments(values_of(x[0][t]));
      layer.mean += all.mean / T;
      layer.variance += all.variance / T;
      for (int64_t h = 0; h < H; ++h) {
        const Moments own = moments(values_of(x[0][t][h]));
        heads[static_cast<size_t>(h)].mean += own.mean / T;
        heads[static_cast<size_t>(h)].variance += own.variance / T;
      }
    }
    EXPECT_NEAR(actual.layer_mean.item<double>(), layer.mean, 1e-12);
    EXPECT_NEAR(actual.layer_variance.item<double>(), layer.variance, 1e-12);
    for (int64_t h = 0; h < H; ++h) {
      EXPECT_NEAR(actual.mean[h].item<double>(), heads[static_cast<size_t>(h)].mean, 1e-12);
      EXPECT_NEAR(actual.variance[h].item<double>(), heads[static_cast<size_t>(h)].variance, 1e-12);
    }
  }
}

TEST(ChannelMoments, ASharedVectorCountsOnceAndASingleChannelHasNoVariance) {
  ChannelMoments shared, alone, single;
  const Tensor x = random({1, 7, 1, 6});
  shared.add(x.expand({1, 7, 4, 6}));
  alone.add(x);
  const auto a = shared.result(), b = alone.result();
  EXPECT_TRUE(at::equal(a.mean, b.mean.expand({4})));
  EXPECT_TRUE(at::equal(a.layer_variance, b.layer_variance));
  const Tensor dt = random({1, 7, 4, 1});
  single.add(dt);
  const auto c = single.result();
  EXPECT_TRUE(c.variance.isnan().all().item<bool>());
  EXPECT_NEAR(c.layer_variance.item<double>(),
              at::var(dt.to(at::kDouble), at::OptionalIntArrayRef(2), 1).mean().item<double>(),
              1e-12);
}

TEST(Histograms, ShareTheRangeOfAllPositions) {
  const int64_t P = 2, L = 2, H = 3, bins = 7;
  Tensor states = random({P, L, H, 5, 4});
  states[1] *= 3;
  states[0][0][1][2][2] = static_cast<float>(kNaN);
  states[0][1][2].fill_(2);
  states[1][1][2].fill_(2);
  const Histograms actual = joint_histograms(states, bins);
  ASSERT_EQ(actual.counts.sizes(), (std::vector<int64_t>{P, L, H, bins}));
  for (int64_t l = 0; l < L; ++l)
    for (int64_t h = 0; h < H; ++h) {
      const std::vector<double> edges = values_of(actual.edges[l][h]);
      std::vector<double> all;
      for (int64_t p = 0; p < P; ++p)
        for (const double x : values_of(states[p][l][h]))
          if (std::isfinite(x))
            all.push_back(x);
      const auto [low, high] = std::minmax_element(all.begin(), all.end());
      const bool flat = *low == *high;
      EXPECT_EQ(edges.front(), flat ? 1.5 : *low);
      EXPECT_EQ(edges.back(), flat ? 2.5 : *high);
      for (int64_t p = 0; p < P; ++p) {
        std::vector<int64_t> expected(bins, 0);
        for (const double x : values_of(states[p][l][h]))
          for (int64_t i = 0; i < bins; ++i) {
            const auto e = static_cast<size_t>(i);
            expected[e] +=
                x >= edges[e] && (x < edges[e + 1] || (i == bins - 1 && x <= edges[e + 1]));
          }
        EXPECT_TRUE(at::equal(actual.counts[p][l][h], at::tensor(expected)));
      }
    }
  EXPECT_EQ(actual.counts.sum().item<int64_t>(), states.numel() - 1);
}

}  // namespace
}  // namespace stuffed::eval
