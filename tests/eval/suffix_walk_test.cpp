#include "src/eval/retention/suffix_walk.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/eval/decay_intervals.h"
#include "stuffed/eval/stream.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

using testing::close;
using testing::Golden;
using testing::golden_path;

TEST(LogSpaced, HasTheNumbersAskedForAllDifferentBothEndsIncluded) {
  for (const int64_t longest : {1, 2, 3, 10, 33, 1000, 1 << 20})
    for (const int64_t points : {1, 2, 3, 7, 32, 64}) {
      const std::vector<int64_t> values = log_spaced(longest, points);
      EXPECT_EQ(int64_t(values.size()), std::min(longest, points));
      EXPECT_EQ(values.back(), longest);
      EXPECT_TRUE(values.size() == 1 || values.front() == 1);
      EXPECT_EQ(std::ranges::adjacent_find(values, std::greater_equal<>()), values.end());
    }
  EXPECT_EQ(log_spaced(64, 7), (std::vector<int64_t>{1, 2, 4, 8, 16, 32, 64}));
}

TEST(TotalVariation, IsHalfTheSumOfDifferences) {
  const Tensor p = at::tensor({0.5f, 0.5f, 0.0f, 0.25f, 0.25f, 0.5f}).view({2, 3});
  const Tensor tv = total_variation(p, at::tensor({0.0f, 0.0f, 1.0f}));
  EXPECT_EQ(tv[0].item<double>(), 1);
  EXPECT_EQ(tv[1].item<double>(), 0.5);
  EXPECT_EQ(tv.scalar_type(), at::kDouble);
}

/// Next-token distribution [vocab] f64 after tokens [1,n], read alone.
Tensor alone(const RecurrentLM& model, const Recurrence& rule, const Tensor& tokens) {
  State state = model.initial_state(1);
  const Tensor hidden = model.forward(tokens.to(at::kLong), state, rule).hidden;
  return testing::logits_of(model, hidden.narrow(1, hidden.size(1) - 1, 1))
      .softmax(-1)[0]
      .to(at::kDouble);
}

void expect_suffixes_equal_themselves_alone(const std::string& name,
                                            const Recurrence& rule,
                                            int64_t segment) {
  const auto model = load_model(golden_path(name));
  const Tensor tokens = Golden(name).get("long_tokens").narrow(1, 0, 301);
  const std::vector<SuffixPoint> points = {
      {100, {1, 2, 37, 100}}, {101, {1, 40}}, {300, {3, 200, 299}}};
  int64_t fed = 0;
  const std::vector<Tensor> found = effective_remembrance(
      *model, rule, tokens, points, segment, {.on_progress = [&](int64_t n) { fed = n; }});
  EXPECT_EQ(fed, tokens_to_feed(points));
  for (size_t i = 0; i < points.size(); ++i) {
    const int64_t read = points[i].read;
    const Tensor whole = alone(*model, rule, tokens.narrow(1, 0, read));
    std::vector<double> expected;
    for (const int64_t n : points[i].suffix_tokens) {
      const Tensor p = alone(*model, rule, tokens.narrow(1, read - n, n));
      expected.push_back(((p - whole).abs().sum() / 2).item<double>());
    }
    EXPECT_GT(expected[0], 1e-3);  // a model that does not look back would prove nothing
    EXPECT_TRUE(close(found[i], at::tensor(expected, at::kDouble), 1e-5)) << "after " << read;
  }
}

class SuffixWalk : public ::testing::TestWithParam<std::string> {};

TEST_P(SuffixWalk, ASuffixInTheBatchEqualsThatSuffixAlone) {
  at::NoGradGuard no_grad;
  for (const int64_t segment : {8192, 32})
    expect_suffixes_equal_themselves_alone(GetParam(), plain_scan(), segment);
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    SuffixWalk,
    ::testing::Values("mamba2-hf", "mamba1-hf", "hgrn2-fla", "rwkv5-pth", "rwkv6-hf", "rwkv7-pth"),
    testing::name_of_golden);

TEST(SuffixWalk, MitigationsSeeANewRowAsOneThatReadNothing) {
  at::NoGradGuard no_grad;
  for (const char* mitigation : {"scale_gates:decay=0.99,insert=0.5", "sliding_window:tokens=24"})
    expect_suffixes_equal_themselves_alone("mamba2-hf",
                                           *build_recurrence({.mitigations = {mitigation}}), 64);
}

TEST(SuffixWalk, DecaysAreThoseOfTheWholeStream) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path("rwkv6-hf"));
  const Tensor tokens = Golden("rwkv6-hf").get("long_tokens").narrow(1, 0, 201);
  const std::vector<Interval> intervals = {{10, 200}, {190, 200}};
  DecayIntervals walked, streamed;
  for (DecayIntervals* decays : {&walked, &streamed})
    decays->watch(model->config().layers, intervals, intervals);
  effective_remembrance(*model, *build_recurrence({.mitigations = {}, .observer = &walked}), tokens,
                        {{200, {10, 190}}}, 8192);
  State state = model->initial_state(1);
  stream(*model, *build_recurrence({.mitigations = {}, .observer = &streamed}), tokens, state, 8192,
         [](const Segment&) {});
  EXPECT_TRUE(close(walked.weights().mean, streamed.weights().mean, 1e-5));
  EXPECT_TRUE(at::equal(walked.lived(), streamed.lived()));
}

}  // namespace
}  // namespace stuffed::eval
