#include "stuffed/eval/fit.h"

#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

#include "src/eval/fit/bootstrap.h"
#include "src/eval/fit/model_facts.h"
#include "src/eval/fit/normal.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "support/golden.h"

namespace stuffed::eval::fitting {
namespace {

double log_density(double z) {
  return -z * z / 2 - 0.5 * std::log(2 * std::numbers::pi);
}

/// Written down once more, from erfc.
double log_likelihood(std::span<const Observation> points,
                      double slope,
                      double intercept,
                      double deviation) {
  double sum = 0;
  for (const Observation& point : points) {
    const double z = (point.y - slope * point.x - intercept) / deviation;
    if (point.censored == Censored::No)
      sum += log_density(z) - std::log(deviation);
    else
      sum += std::log(
          0.5 * std::erfc((point.censored == Censored::AtMost ? -z : z) / std::numbers::sqrt2));
  }
  return sum;
}

/// y = 5 x - 4 with deviations of 2; what exceeds `bound` is known to do so, and no more.
std::vector<Observation> censored_line(int64_t points, double bound, std::string_view key) {
  Rng rng(0, key);
  std::vector<Observation> out;
  for (int64_t i = 0; i < points; ++i) {
    const double x = 10 * rng.uniform(), y = 5 * x - 4 + 2 * rng.normal();
    out.push_back(y > bound ? Observation{x, bound, Censored::AtLeast} : Observation{x, y});
  }
  return out;
}

TEST(FitNormal, TheTailsSeriesContinuesTheFunction) {
  // erfc is good to z = -37, the series is used from -30 on; its error there is below 105 / z^8.
  for (const double z : {-30.5, -33.0, -36.0})
    EXPECT_NEAR(log_normal_below(z), std::log(0.5 * std::erfc(-z / std::numbers::sqrt2)), 2e-10)
        << z;
  EXPECT_NEAR(log_normal_below(0), std::log(0.5), 1e-15);
}

TEST(FitNormal, TheHazardIsTheDerivative) {
  // Central differences of step 1e-5: cut off at 1e-10 of the third derivative, rounded at 1e-16 *
  // |value| / 1e-5.
  for (const double z : {-40.0, -20.0, -3.0, 0.0, 2.0, 6.0})
    EXPECT_NEAR(normal_hazard(z), (log_normal_below(z + 1e-5) - log_normal_below(z - 1e-5)) / 2e-5,
                1e-8 * (1 + z * z))
        << z;
}

TEST(FitLine, WithoutBoundsIsLeastSquares) {
  const std::vector<Observation> points = {{0, 1}, {1, 3}, {2, 4}};
  const auto line = fit_line(points);
  ASSERT_TRUE(line);
  EXPECT_NEAR(line->slope, 1.5, 1e-14);
  EXPECT_NEAR(line->intercept, 7.0 / 6, 1e-14);
  EXPECT_NEAR(line->deviation, std::sqrt(1.0 / 18), 1e-14);  // RSS 1/6 of three points
  EXPECT_NEAR(line->log_likelihood, log_likelihood(points, 1.5, 7.0 / 6, std::sqrt(1.0 / 18)),
              1e-12);
}

TEST(FitLine, IsTheBestThereIsByTheLikelihood) {
  std::vector<Observation> points = censored_line(12, 30, "best");
  points.push_back({.x = 0.5, .y = 2, .censored = Censored::AtMost});
  const auto line = fit_line(points);
  ASSERT_TRUE(line);
  const double best = log_likelihood(points, line->slope, line->intercept, line->deviation);
  EXPECT_NEAR(line->log_likelihood, best, 1e-10);
  Rng rng(1, "around");
  for (int i = 0; i < 3000; ++i) {
    const double size = std::pow(10, -5 * rng.uniform());
    EXPECT_LE(log_likelihood(points, line->slope + size * rng.normal(),
                             line->intercept + size * rng.normal(),
                             line->deviation * std::exp(size * rng.normal())),
              best + 1e-12);
  }
}

TEST(FitLine, FindsTheTruthWhereBoundsTakenForValuesMissIt) {
  const std::vector<Observation> points = censored_line(2000, 26, "truth");  // 40 % beyond
  std::vector<Observation> as_values = points;
  for (Observation& point : as_values)
    point.censored = Censored::No;
  // Without censoring the slope's standard error would be 2 / (sqrt(2000) * 2.9) = 0.0155; 40 %
  // bounds at the far end at most double it, and four of those are allowed.
  EXPECT_NEAR(fit_line(points)->slope, 5, 8 * 0.0155);
  EXPECT_NEAR(fit_line(points)->deviation, 2, 0.2);
  EXPECT_LT(fit_line(as_values)->slope, 4);
}

TEST(FitLine, APerfectLineStaysWhereBoundsAgreeAndMovesWhereNot) {
  std::vector<Observation> points = {{0, 1}, {1, 3}, {2, 5}, {3, 6, Censored::AtLeast}};
  EXPECT_EQ(fit_line(points)->deviation, 0);
  EXPECT_NEAR(fit_line(points)->slope, 2, 1e-14);
  points.back().y = 9;
  EXPECT_GT(fit_line(points)->slope, 2.05);
  EXPECT_GT(fit_line(points)->deviation, 0.01);
}

TEST(FitLine, IsNothingWithoutTwoPlaces) {
  EXPECT_FALSE(fit_line(std::vector<Observation>{{1, 1}, {1, 2}, {2, 5, Censored::AtLeast}}));
  EXPECT_FALSE(fit_line(std::vector<Observation>{}));
}

TEST(FitExponential, FindsWhatPointsWithoutNoiseLieOn) {
  const Curve paper = paper_curve(Law::Recall);
  std::vector<Observation> points;
  for (const double x : {0.8, 1.6, 2.4, 4.8, 12.9})
    points.push_back({.x = x, .y = paper(x)});
  points.push_back({.x = 15, .y = paper(15) - 1, .censored = Censored::AtLeast});
  const auto found = fit_exponential(points);
  ASSERT_TRUE(found);
  // RSS is flat within rounding (1e-16 of y^2) about its zero: c is known to some 1e-8, a and b to
  // that times their share of y, which is 250 at most.
  EXPECT_NEAR(found->c, paper.c, 1e-7);
  EXPECT_NEAR(found->a, paper.a, 1e-5);
  EXPECT_NEAR(found->b, paper.b, 1e-5);
}

TEST(FitExponential, BendsTheOtherWayToo) {
  std::vector<Observation> points;
  for (const double x : {0.0, 1.0, 2.0, 3.0})
    points.push_back({.x = x, .y = -8 * std::expm1(x * std::log(0.5)) + 3});
  const auto found = fit_exponential(points);
  ASSERT_TRUE(found);
  EXPECT_NEAR(found->c, 0.5, 1e-7);
  EXPECT_NEAR(found->a, -8, 1e-5);
  EXPECT_NEAR((*found)(1.5), -8 * (std::pow(0.5, 1.5) - 1) + 3, 1e-6);
}

TEST(FitExponential, IsNothingForAStepOrTwoPlaces) {
  EXPECT_FALSE(fit_exponential(std::vector<Observation>{{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 9}}));
  EXPECT_FALSE(fit_exponential(std::vector<Observation>{{0, 1}, {0, 2}, {1, 4}, {1, 5}}));
}

TEST(FitBootstrap, IntervalsHoldTheTruthAboutAsOftenAsTheySay) {
  constexpr int64_t kSets = 200, kSizes = 15, kSeeds = 3;
  int64_t held = 0;
  for (int64_t set = 0; set < kSets; ++set) {
    Rng rng(2, fmt::format("set/{}", set));
    std::vector<Observation> points;
    for (int64_t size = 0; size < kSizes; ++size)
      for (int64_t seed = 0; seed < kSeeds; ++seed)
        points.push_back({.x = double(size), .y = 5 * double(size) - 4 + rng.normal()});
    const Bootstrap drawn =
        draw_curves(Law::Forget, points, 300, static_cast<uint64_t>(set), [](int64_t) {});
    const QuantileInterval slope = interval_of(drawn, [](const Curve& curve) { return curve.a; });
    held += slope.low <= 5 && 5 <= slope.high;
  }
  // 95 % asymptotically, some percent fewer by percentiles of 15 sizes. Of 200 sets the binomial
  // deviation is 1.5 to 2 %.
  EXPECT_GE(held, kSets * 85 / 100);
  EXPECT_LE(held, kSets * 99 / 100);
}

TEST(FitBootstrap, SaysNothingOfDrawsThatSeldomDecideACurve) {
  const std::vector<Observation> points = {{0, 0}, {1, 1}, {2, 4}};  // 2 of 9 draws have all three
  const Bootstrap drawn = draw_curves(Law::Recall, points, 90, 0, [](int64_t) {});
  EXPECT_LT(std::ssize(drawn.curves), 45);
  EXPECT_TRUE(std::isnan(interval_of(drawn, [](const Curve& curve) { return curve.c; }).low));
}

TEST(Fit, ThePapersPointsGiveNearlyItsLine) {
  const FitData data = read_fit_data({.law = Law::Forget});
  const io::json found = fit_law(Law::Forget, data.points, 200, 0, [](int64_t) {});
  // By hand from the six points: 5.17522, -4.48190, R^2 0.98514.
  EXPECT_NEAR(found["coefficients"]["a"]["value"].get<double>(), 5.17522, 1e-5);
  EXPECT_NEAR(found["coefficients"]["b"]["value"].get<double>(), -4.48190, 1e-5);
  EXPECT_NEAR(found["r_squared"].get<double>(), 0.98514, 1e-5);
  EXPECT_NEAR(found["paper"]["difference"]["a"].get<double>(), 5.17522 - 5.172, 1e-5);
}

TEST(Fit, TooFewValuesAreNoFit) {
  std::vector<FitPoint> points = {
      {.state_elements = 1'000'000, .tokens = 1024},
      {.state_elements = 2'000'000, .tokens = 4096},
      {.state_elements = 4'000'000, .censored = "at least", .tokens = 8192}};
  const auto fitted = [&](Law law) { return fit_law(law, points, 0, 0, [](int64_t) {}); };
  EXPECT_THROW(fitted(Law::Forget), Error);
  points.push_back({.state_elements = 2'000'000, .seed = 1, .tokens = 5000});
  EXPECT_NO_THROW(fitted(Law::Forget));
  EXPECT_THROW(fitted(Law::Recall), Error);  // of two sizes
}

TEST(Fit, AStatesSizeFollowsTheRule) {
  const auto model = load_model(testing::golden_path("mamba2-hf"));
  const ModelFacts facts = read_facts(facts_of_model(*model, ""), "", "", "");
  EXPECT_EQ(facts.state.elements(StateRule::Recurrence), model->recurrent_elements());
  EXPECT_EQ(facts.state.elements(StateRule::CarriedInputs), model->state_elements());
  EXPECT_EQ(facts.state.elements(StateRule::WholeWidth), model->recurrent_elements() + 3 * 160 * 4);
  const auto shifted = load_model(testing::golden_path("rwkv6-hf"));
  const ModelFacts of_shifted = read_facts(facts_of_model(*shifted, ""), "", "", "");
  EXPECT_EQ(of_shifted.state.elements(StateRule::WholeWidth), shifted->state_elements());
}

}  // namespace
}  // namespace stuffed::eval::fitting
