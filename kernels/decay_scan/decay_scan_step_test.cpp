// A few tokens on the CPU, one after the other, against the plain loops: what decoding runs.
#include <cmath>

#include <gtest/gtest.h>

#include "kernels/common/levels.h"
#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/ops/decay_scan.h"
#include "tests/support/scan_variants.h"

namespace stuffed {
namespace {

using kernels::tokens_of;
using scan_cases::Case;
using scan_cases::Decay;
using scan_cases::kDecays;
using scan_cases::make_problem;
using scan_cases::Problem;
using scan_cases::Variant;
using scan_cases::variant_of;
using scan_cases::variants;
using testing::bitwise_equal;
using testing::close;

Case small(const Variant& variant, int64_t T, at::ScalarType type, Decay decay) {
  Case c{.variant = variant, .decay = decay, .B = 2, .T = T, .H = 3, .K = 20, .V = 9, .type = type};
  if (variant.terms.decay == DecayForm::Factored)
    c.K = 16, c.V = 1, c.H = 37;
  return c;
}

ScanResult step(const Problem& p) {
  EXPECT_TRUE(kernels::decay_scan_step_takes(p.in, p.state));
  const Tensor state = at::full_like(p.state, NAN);
  const Tensor y = kernels::decay_scan_step(p.in, p.state, state);
  return {y, state};
}

void expect_reference(const Problem& p, const std::string& what) {
  const ScanResult expected = kernels::decay_scan_cpu(p.in, p.state);
  const ScanResult actual = step(p);
  EXPECT_EQ(actual.y.scalar_type(), p.in.v.scalar_type());
  EXPECT_TRUE(close(actual.y, expected.y, p.in.v.scalar_type() == at::kFloat ? 2e-6 : 5e-3))
      << what;
  EXPECT_TRUE(close(actual.state, expected.state, 1e-6)) << what;
}

TEST(DecayScanStep, AgreesForAnyDecay) {
  for (const Variant& variant : variants())
    for (const Decay decay : kDecays)
      for (const int64_t T : {1, 2, 8})
        for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
          const Case c = small(variant, T, type, decay);
          expect_reference(make_problem(c), c.name());
        }
}

TEST(DecayScanStep, TakesWhatMitigationsMakeOfTheInputs) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Case c = small(variant_of("rwkv6"), 3, type, Decay::Weak);
    Problem p = make_problem(c);
    p.in.bonus_k = at::randn({c.B, c.T, c.H, c.K}).to(type);
    p.in.v_scale = at::rand({c.B, c.T, c.H});
    expect_reference(p, "a bonus key and a scale");
    p.in.log_decay = p.in.log_decay.narrow(3, 0, 1);  // a bonus and one decay per head
    expect_reference(p, "one decay");
    p = make_problem(small(variant_of("mamba1"), 3, type, Decay::Weak));
    p.in.factored_decay->offset = -0.5;
    p.in.q = p.in.q.contiguous();
    p.in.k = p.in.k.contiguous();
    expect_reference(p, "an offset, and nothing shared");
  }
}

TEST(DecayScanStep, ReadsForksAndViews) {
  for (const Variant& variant : variants()) {
    Problem p = make_problem(small(variant, 2, at::kFloat, Decay::Weak));
    const ScanResult expected = step(p);
    for (Tensor* x : {&p.in.q, &p.in.k, &p.in.v}) {
      std::vector<int64_t> sizes = x->sizes().vec();
      for (size_t axis = 1; axis < 4; ++axis)
        sizes[axis] += 3;
      Tensor inside = at::full(sizes, NAN, x->options());
      for (int64_t axis = 1; axis < 4; ++axis)
        inside = inside.narrow(axis, 2, x->size(axis));
      *x = inside.copy_(*x);
    }
    EXPECT_TRUE(bitwise_equal(step(p).y, expected.y)) << name_of(variant);
    p.state = p.state.narrow(0, 0, 1).expand_as(p.state);
    const Tensor before = p.state.clone();
    expect_reference(p, name_of(variant));
    EXPECT_TRUE(bitwise_equal(p.state, before)) << name_of(variant);
  }
}

TEST(DecayScanStep, InPlaceGivesTheSameBits) {
  for (const Variant& variant : variants())
    for (const int64_t T : {1, 5, 20}) {  // 20: another program, copied
      const Problem p = make_problem(small(variant, T, at::kFloat, Decay::Resets));
      const ScanResult expected = ops::decay_scan(p.in, p.state);
      const Tensor state = p.state.clone();
      EXPECT_TRUE(bitwise_equal(ops::decay_scan_in_place(p.in, state), expected.y));
      EXPECT_TRUE(bitwise_equal(state, expected.state)) << name_of(variant) << " " << T;
    }
}

TEST(DecayScanStep, ASequenceIsTheSameInAnyBatchAndCutOfTokens) {
  for (const Variant& variant : variants()) {
    const Problem p = make_problem(small(variant, 6, at::kFloat, Decay::Weak));
    const ScanResult whole = step(p);
    const Problem second{kernels::sequences_of(p.in, 1, 2), p.state.slice(0, 1, 2)};
    EXPECT_TRUE(bitwise_equal(step(second).state, whole.state.slice(0, 1, 2)));
    const Problem rest{tokens_of(p.in, 2, 6), step({tokens_of(p.in, 0, 2), p.state}).state};
    const ScanResult end = step(rest);
    EXPECT_TRUE(bitwise_equal(end.y, whole.y.narrow(1, 2, 4))) << name_of(variant);
    EXPECT_TRUE(bitwise_equal(end.state, whole.state)) << name_of(variant);
  }
}

TEST(DecayScanStep, AThousandStepsTrackTheReference) {
  for (const Variant& variant : variants())
    for (const Decay decay : {Decay::Weak, Decay::Tiny}) {
      const Case c = small(variant, 1000, at::kFloat, decay);
      const Problem p = make_problem(c);
      const ScanResult expected = kernels::decay_scan_cpu(p.in, p.state);
      const Tensor state = p.state.clone();
      std::vector<Tensor> y;
      for (int64_t t = 0; t < c.T; ++t)
        y.push_back(ops::decay_scan_in_place(tokens_of(p.in, t, t + 1), state));
      EXPECT_TRUE(close(at::cat(y, 1), expected.y, 1e-5)) << c.name();
      EXPECT_TRUE(close(state, expected.state, 1e-5)) << c.name();
    }
}

TEST(DecayScanStep, TheTwoPartsOfItsExponentialKeepTheirDigits) {
  for (double x = -1e-9; x > -200; x *= 1.01) {
    const auto given = static_cast<float>(x);
    const kernels::StateDecay actual = kernels::state_decay_inline(given);
    EXPECT_EQ(actual.keep, given > -0.5F ? 1 : 0);
    if (given < -87)
      EXPECT_EQ(actual.change, 0) << x;
    else
      EXPECT_NEAR(
          actual.change / (actual.keep > 0 ? std::expm1(double{given}) : std::exp(double{given})),
          1, 3e-7)
          << x;
  }
  EXPECT_EQ(kernels::state_decay_inline(0).change, 0);
  EXPECT_EQ(kernels::state_decay_inline(0).keep, 1);
  EXPECT_EQ(kernels::state_decay_inline(-INFINITY).change, 0);
  EXPECT_TRUE(std::isnan(kernels::state_decay_inline(NAN).change));
}

}  // namespace
}  // namespace stuffed
