#include "stuffed/check/verify.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/decay_scan/decay_scan_views.h"
#include "support/golden.h"
#include "tests/support/scan_variants.h"

namespace stuffed {
namespace {

using kernels::relative_rms;
using kernels::worst_relative_rms;

TEST(Closeness, TheWorstHeadCountsAndZeroAgreesWithZero) {
  const Tensor expected = at::ones({1, 3, 2, 4});
  Tensor actual = expected.clone();
  actual.select(2, 1) *= 1.5;
  actual.select(2, 0) *= 1.1;
  EXPECT_NEAR(worst_relative_rms(actual, expected, {1, 3}), 0.5, 1e-6);
  EXPECT_EQ(worst_relative_rms(at::zeros({1, 3, 2, 4}), at::zeros({1, 3, 2, 4}), {1, 3}), 0);
  EXPECT_TRUE(std::isinf(worst_relative_rms(expected, at::zeros_like(expected), {1, 3})));
}

TEST(Closeness, FewNumbersOfAHeadAreJudgedWithTheirNeighbours) {
  Tensor expected = at::ones({1, 1, 4, 1});
  expected[0][0][3][0] = 1e-6;  // a sum that cancelled
  Tensor actual = expected.clone();
  actual[0][0][3][0] = 2e-6;
  EXPECT_LT(kernels::worst_output_rms(actual, expected), 1e-5);
  EXPECT_NEAR(
      kernels::worst_output_rms(actual.expand({1, 1, 4, 16}), expected.expand({1, 1, 4, 16})), 1,
      1e-3);
  EXPECT_NEAR(kernels::worst_output_rms(expected * 1.01, expected), 0.01, 1e-6);
}

TEST(Closeness, WhatIsNotFiniteOrOfAnotherShapeIsInfinitelyFar) {
  const Tensor expected = at::ones({4});
  Tensor actual = at::ones({4});
  actual[2] = NAN;
  EXPECT_TRUE(std::isinf(relative_rms(actual, expected)));
  EXPECT_TRUE(std::isinf(relative_rms(at::ones({3}), expected)));
  EXPECT_EQ(relative_rms(at::ones({0}), at::ones({0})), 0);
}

TEST(ScanViews, PartsOfTheInputsGivePartsOfTheResult) {
  for (const auto& variant : scan_cases::variants()) {
    const scan_cases::Problem p =
        scan_cases::make_problem({.variant = variant, .B = 3, .T = 20, .H = 4});
    const ScanResult whole = kernels::decay_scan_cpu(p.in, p.state);
    const ScanResult heads =
        kernels::decay_scan_cpu(kernels::heads_of(p.in, 1, 3), p.state.slice(1, 1, 3));
    EXPECT_TRUE(testing::bitwise_equal(heads.y, whole.y.slice(2, 1, 3)));
    EXPECT_TRUE(testing::bitwise_equal(heads.state, whole.state.slice(1, 1, 3)));
    const ScanResult rows =
        kernels::decay_scan_cpu(kernels::sequences_of(p.in, 2, 3), p.state.slice(0, 2, 3));
    EXPECT_TRUE(testing::bitwise_equal(rows.y, whole.y.slice(0, 2, 3)));
    const ScanResult begin = kernels::decay_scan_cpu(kernels::tokens_of(p.in, 0, 7), p.state);
    EXPECT_TRUE(testing::bitwise_equal(begin.y, whole.y.slice(1, 0, 7)));
  }
}

TEST(ScanViews, SharedHeadsAreReadOnce) {
  const scan_cases::Case c{
      .variant = scan_cases::variant_of("mamba2"), .B = 2, .T = 10, .H = 6, .K = 16, .V = 8};
  // q, k [B,T,1,K]; v, y [B,T,H,V]; log_decay, v_scale [B,T,H]; all f32.
  EXPECT_EQ(kernels::streamed_bytes(scan_cases::make_problem(c).in),
            4 * 2 * 10 * (2 * 16 + 2 * 6 * 8 + 2 * 6));
  const ScanInputs wide =
      kernels::converted(scan_cases::make_problem(c).in, at::TensorOptions(at::kDouble));
  EXPECT_EQ(wide.q.stride(2), 0);
  EXPECT_EQ(kernels::streamed_bytes(wide), 8 * 2 * 10 * (2 * 16 + 2 * 6 * 8 + 2 * 6));
}

eval::OpenModel opener(const std::string& name) {
  return [name](at::Device device, at::ScalarType dtype) {
    return load_model(testing::golden_path(name), {.dtype = dtype, .device = device});
  };
}

TEST(VerifyModel, EveryVerdictIsToldBeforeAndAfter) {
  at::NoGradGuard no_grad;
  int begun = 0, done = 0;
  const auto verdicts = eval::verify_model(
      opener("mamba1-hf"), at::randint(0, 60, {1, 31}, at::kLong),
      {.devices = {at::kCPU}, .dtypes = {at::kFloat}, .segments = {1, 7}, .long_lengths = {50}},
      [&](const eval::Verdict&, bool is_done) { ++(is_done ? done : begun); });
  EXPECT_EQ(verdicts.size(), 4u);  // whole, 1, 7, long
  EXPECT_EQ(begun, 4);
  EXPECT_EQ(done, 4);
  for (const eval::Verdict& verdict : verdicts)
    EXPECT_TRUE(verdict.ran() && verdict.agrees()) << verdict.record().dump();
}

TEST(VerifyModel, ALongStreamPassesTwoToTheThirtyOneElements) {
  const auto model = load_model(testing::golden_path("hgrn2-fla"));
  int64_t widest = 0;
  struct Widest : ParameterVisitor {
    explicit Widest(int64_t& w) : width(w) {}
    void parameter(const std::string& name, Tensor&, std::vector<int64_t> shape, Role) override {
      if (name.find("layers") != std::string::npos)
        width = std::max(width, shape.front());
    }
    int64_t& width;
  } visitor(widest);
  model->visit(visitor);
  EXPECT_GT(eval::length_past_2g(*model) * widest, int64_t{1} << 31);
  EXPECT_LT((eval::length_past_2g(*model) - 65) * widest, int64_t{1} << 31);
}

TEST(Verdict, WhatIsNotFiniteDisagreesAndIsRecordedAsSuch) {
  eval::Verdict verdict;
  verdict.output_bound = verdict.state_bound = 1;
  EXPECT_TRUE(verdict.agrees());
  verdict.state_error = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(verdict.agrees());
  EXPECT_EQ(verdict.record().at("finite"), false);
  EXPECT_TRUE(verdict.record().at("state_relative_rms").is_null());
  verdict.not_run = "no GPU";
  EXPECT_EQ(verdict.outcome(), "not run");
}

}  // namespace
}  // namespace stuffed
