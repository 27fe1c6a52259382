// Every implementation of the recurrence against the plain loops.
#include "stuffed/ops/decay_scan.h"

#include <cmath>
#include <functional>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_backward.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/ops/op.h"
#include "tests/support/scan_variants.h"

namespace stuffed {
namespace {

using kernels::tokens_of;
using scan_cases::Case;
using scan_cases::Decay;
using scan_cases::kDecays;
using scan_cases::make_problem;
using scan_cases::Problem;
using scan_cases::raw_variants;
using scan_cases::Variant;
using scan_cases::variant_of;
using scan_cases::variants;
using testing::bitwise_equal;
using testing::close;

constexpr int64_t kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000};

double bound_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 5e-3;
}

/// The programs beside the reference that take these inputs on the CPU.
std::vector<Impl> programs_for(const Problem& p) {
  const ScanInputs in = ops::with_log_decay(p.in);
  std::vector<Impl> found = {Impl::Aten};
  if (kernels::decay_scan_step_takes(in, p.state))
    found.push_back(Impl::Step);
  if (kernels::decay_scan_tiled_takes(in, p.state))
    found.push_back(Impl::Tiled);
  return found;
}

void expect_agreement(const Case& c) {
  const Problem p = make_problem(c);
  const ScanResult expected = ops::decay_scan(p.in, p.state, Impl::Reference);
  for (const Impl impl : programs_for(p)) {
    const ScanResult actual = ops::decay_scan(p.in, p.state, impl);
    EXPECT_TRUE(close(actual.y, expected.y, bound_of(c.type))) << c.name() << impl_name(impl);
    EXPECT_TRUE(close(actual.state, expected.state, c.type == at::kDouble ? 1e-12 : 1e-5))
        << c.name() << impl_name(impl);
    EXPECT_EQ(actual.y.scalar_type(), c.type);
  }
}

/// Every tensor of a problem that may have a gradient.
std::vector<Tensor*> tensors_of(Problem& p) {
  std::vector<Tensor*> all = {&p.state};
  visit_tensors(p.in, [&](const ScanField&, Tensor& x) { all.push_back(&x); });
  return all;
}

TEST(DecayScan, ProgramsAgreeForAnyDecay) {
  for (const Variant& variant : variants())
    for (const Decay decay : kDecays)
      for (const at::ScalarType type : {at::kFloat, at::kDouble})
        expect_agreement({.variant = variant, .decay = decay, .B = 2, .T = 150, .type = type});
}

TEST(DecayScan, ProgramsMakeTheDecaysOfAGateForAnyDecay) {
  for (const Variant& variant : raw_variants())
    for (const Decay decay : kDecays)
      expect_agreement({.variant = variant, .decay = decay, .B = 2, .T = 150, .type = at::kDouble});
}

// Not in bf16, where a forget gate's key is rounded before a program reads it.
TEST(DecayScan, ProgramsMakeTheDecaysOfAGateForAnyLength) {
  for (const Variant& variant : raw_variants())
    for (const int64_t T : kLengths)
      expect_agreement({.variant = variant, .decay = Decay::Resets, .T = T, .H = 3});
}

TEST(DecayScan, AGateGivesTheBitsOfItsLogDecay) {
  for (const Variant& variant : raw_variants())
    for (const int64_t T : {1, 8, 100})
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const Problem p = make_problem({.variant = variant, .T = T, .H = 3, .type = type});
        const ScanInputs stored = ops::with_log_decay(p.in);
        EXPECT_FALSE(stored.gate);
        EXPECT_EQ(stored.log_decay.scalar_type(), at::kFloat);
        EXPECT_EQ(stored.k.scalar_type(), type);
        EXPECT_EQ(ops::choose(p.in, p.state), ops::choose(stored, p.state));
        const ScanResult expected = ops::decay_scan(stored, p.state);
        const ScanResult actual = ops::decay_scan(p.in, p.state);
        EXPECT_TRUE(bitwise_equal(actual.y, expected.y)) << name_of(variant);
        EXPECT_TRUE(bitwise_equal(actual.state, expected.state)) << name_of(variant);
        const Tensor state = p.state.clone();
        EXPECT_TRUE(bitwise_equal(ops::decay_scan_in_place(p.in, state), expected.y));
        EXPECT_TRUE(bitwise_equal(state, expected.state)) << name_of(variant);
      }
}

TEST(DecayScan, ProgramsAgreeForAnyLength) {
  for (const Variant& variant : variants())
    for (const int64_t T : kLengths)
      for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16})
        expect_agreement(
            {.variant = variant, .decay = Decay::Resets, .T = T, .H = 3, .type = type});
}

TEST(DecayScan, ProgramsAgreeOnLongSegments) {
  for (const Variant& variant : variants())
    for (const Decay decay : {Decay::Weak, Decay::Never, Decay::Exactly})
      expect_agreement({.variant = variant, .decay = decay, .T = 8193, .H = 1, .V = 4});
}

TEST(DecayScan, ProgramsAgreeAtTheWidthsOfModels) {
  expect_agreement({.variant = variant_of("mamba2"), .T = 200, .H = 3, .K = 128, .V = 64});
  expect_agreement({.variant = variant_of("rwkv6"), .T = 200, .H = 1, .K = 64, .V = 64});
  expect_agreement({.variant = variant_of("hgrn2"), .T = 200, .H = 1, .K = 128, .V = 128});
  expect_agreement({.variant = variant_of("rwkv7"), .T = 200, .H = 2, .K = 64, .V = 64});
  expect_agreement({.variant = variant_of("mamba1"), .T = 200, .H = 101, .K = 16, .V = 1});
}

TEST(DecayScan, NoTokensLeaveTheState) {
  for (const Variant& variant : variants()) {
    const Problem p = make_problem({.variant = variant, .T = 3});
    for (const Impl impl : {Impl::Reference, Impl::Step, Impl::Tiled, Impl::Aten, Impl::Chunked}) {
      const ScanResult out = ops::decay_scan(tokens_of(p.in, 0, 0), p.state, impl);
      EXPECT_TRUE(bitwise_equal(out.state, p.state));
      EXPECT_EQ(out.y.numel(), 0);
      EXPECT_NE(out.state.data_ptr(), p.state.data_ptr());
    }
  }
}

TEST(DecayScan, SegmentsMayBeCutAnywhere) {
  for (const Variant& variant : variants())
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const int64_t T = 193;
      const Problem p =
          make_problem({.variant = variant, .decay = Decay::Resets, .T = T, .type = type});
      const ScanResult whole = ops::decay_scan(p.in, p.state);
      Rng rng(3, "cuts");
      std::vector<int64_t> cuts = {1, 15, 63, 64, 65, 128, T - 1};
      for (int i = 0; i < 5; ++i)
        cuts.push_back(static_cast<int64_t>(rng.below(T)));
      for (const int64_t cut : cuts) {
        const ScanResult first = ops::decay_scan(tokens_of(p.in, 0, cut), p.state);
        const ScanResult second = ops::decay_scan(tokens_of(p.in, cut, T), first.state);
        EXPECT_TRUE(close(at::cat({first.y, second.y}, 1), whole.y, bound_of(type))) << cut;
        EXPECT_TRUE(close(second.state, whole.state, bound_of(type)))
            << name_of(variant) << " cut at " << cut;
      }
    }
}

TEST(DecayScan, TheChunkChangesRoundingOnly) {
  for (const Variant& variant : variants()) {
    const Problem p = make_problem({.variant = variant, .decay = Decay::Extreme, .T = 300});
    const ScanResult expected = kernels::decay_scan_aten(p.in, p.state, 64);
    for (const int64_t chunk : {16, 32, 100, 128, 256}) {
      const ScanResult actual = kernels::decay_scan_aten(p.in, p.state, chunk);
      EXPECT_TRUE(close(actual.y, expected.y, 1e-5)) << name_of(variant) << " " << chunk;
      EXPECT_TRUE(close(actual.state, expected.state, 1e-5)) << name_of(variant) << " " << chunk;
    }
  }
}

/// T tokens of one head with one decay all along, that insert nothing.
Problem only_decays(const Variant& variant, int64_t T, double log_decay) {
  const bool factored = variant.terms.decay == DecayForm::Factored;
  Problem p =
      make_problem({.variant = variant, .B = 1, .T = 1, .H = 1, .K = 16, .V = factored ? 1 : 16});
  const auto fill = [&](Tensor& x, double number) {
    std::vector<int64_t> shape = x.sizes().vec();
    shape[1] = T;
    x = at::full(shape, number, x.options());
  };
  fill(p.in.q, 1);
  fill(p.in.k, 0);
  fill(p.in.v, 0);
  if (factored) {
    fill(p.in.factored_decay->step, -log_decay);
    p.in.factored_decay->rate.fill_(-1);
  } else {
    fill(p.in.log_decay, log_decay);
  }
  if (p.in.v_scale)
    fill(*p.in.v_scale, 1);
  if (p.in.erase) {
    fill(p.in.erase->read, 0);
    fill(p.in.erase->write, 0);
  }
  return p;
}

TEST(DecayScan, ASlowDecayDoesNotDriftOverManyChunks) {
  // In f32 a chunk's factor is off by half a unit in the last place, 3e-8, the same way each time:
  // 625 of them by 2e-5. A state's own rounding differs from element to element.
  constexpr int64_t kChunks = 625;
  constexpr double kLogDecay = -32.5 * 5.96046e-8;  // of a chunk
  const auto expect_kept = [&](const Tensor& state, const Problem& p, const std::string& what) {
    const Tensor expected = p.state.to(at::kDouble) * std::exp(kLogDecay * kChunks);
    EXPECT_LT(std::abs((state / expected - 1).mean().item<double>()), 5e-6) << what;
  };
  for (const Variant& variant : variants())
    for (const int64_t chunk : {16, 64}) {
      Problem p = only_decays(variant, kChunks * chunk, kLogDecay / static_cast<double>(chunk));
      p.state = at::rand(p.state.sizes(), p.state.options()) * 0.5 + 0.5;
      expect_kept(kernels::decay_scan_aten(p.in, p.state, chunk).state, p,
                  name_of(variant) + std::to_string(chunk));
      if (chunk == 64 && kernels::decay_scan_tiled_takes(p.in, p.state))
        expect_kept(kernels::decay_scan_tiled(p.in, p.state).state, p, "tiled");
    }
}

TEST(DecayScan, WhatAStrongDecayLeavesOfALargeStateIsKept) {
  for (const Variant& variant : variants())
    for (const int64_t T : {1, 5, 130}) {  // steps, and chunks
      Problem p = only_decays(variant, T, -25.0 / static_cast<double>(T));
      p.state.fill_(1e12);
      // An exponent of 25 nats that was summed in f32 is known to some 2e-5, and so is what is
      // left.
      EXPECT_TRUE(close(ops::decay_scan(p.in, p.state).state,
                        at::full_like(p.state, 1e12 * std::exp(-25.0)), 1e-4))
          << name_of(variant) << ' ' << T;
    }
}

TEST(DecayScan, TwiceTheValuesGiveExactlyTwiceTheOutput) {
  for (const Variant& variant : variants()) {
    Problem p = make_problem({.variant = variant, .T = 100});
    p.state.zero_();
    const ScanResult once = ops::decay_scan(p.in, p.state);
    p.in.v = p.in.v * 2;
    const ScanResult twice = ops::decay_scan(p.in, p.state);
    EXPECT_TRUE(bitwise_equal(twice.y, once.y * 2)) << name_of(variant);
    EXPECT_TRUE(bitwise_equal(twice.state, once.state * 2)) << name_of(variant);
  }
}

TEST(DecayScan, ReadsStridedViews) {
  for (const Variant& variant : variants()) {
    Problem p = make_problem({.variant = variant, .decay = Decay::Resets, .B = 2, .T = 70});
    const ScanResult expected = ops::decay_scan(p.in, p.state, Impl::Reference);
    for (Tensor* x : tensors_of(p)) {  // slices of a wide parent whose other columns are NaN
      std::vector<int64_t> wide = x->sizes().vec();
      wide.back() += 7;
      Tensor parent = at::full(wide, NAN, x->options());
      parent.narrow(-1, 3, x->size(-1)).copy_(*x);
      *x = parent.narrow(-1, 3, x->size(-1));
    }
    p.in.v = p.in.v.transpose(1, 2).contiguous().transpose(1, 2);
    std::vector<Impl> programs = programs_for(p);
    programs.push_back(Impl::Reference);
    for (const Impl impl : programs)
      EXPECT_TRUE(close(ops::decay_scan(p.in, p.state, impl).y, expected.y, 1e-5))
          << name_of(variant) << ' ' << impl_name(impl);
  }
}

TEST(DecayScan, NaNStaysInItsSequence) {
  for (const Variant& variant : variants()) {
    Problem p = make_problem({.variant = variant, .B = 2, .T = 70});
    const Tensor expected = ops::decay_scan(p.in, p.state).y;
    for (Tensor* x : {&p.in.q, &p.in.k, &p.in.v, &p.state}) {
      *x = x->contiguous().clone();
      x->select(0, 1).fill_(NAN);
    }
    const Tensor y = ops::decay_scan(p.in, p.state).y;
    EXPECT_TRUE(close(y.select(0, 0), expected.select(0, 0), 1e-5)) << name_of(variant);
    EXPECT_TRUE(y.select(0, 1).isnan().all().item<bool>()) << name_of(variant);
  }
}

/// Derivatives along random directions, by central differences of the reference in f64.
void expect_gradients(const Case& c) {
  Problem p = make_problem(c);
  const Tensor y_weight = at::randn({c.B, c.T, c.H, c.V}, at::kDouble),
               state_weight = at::randn_like(p.state);
  const auto loss = [&](const ScanResult& out) {
    return (out.y * y_weight).sum() + (out.state * state_weight).sum();
  };
  for (Tensor* x : tensors_of(p))
    *x = x->clone().requires_grad_();
  loss(ops::decay_scan(p.in, p.state, Impl::Aten)).backward();

  const at::NoGradGuard no_gradient;
  for (size_t i = 0; i < tensors_of(p).size(); ++i) {
    const Tensor value = tensors_of(p)[i]->detach(), gradient = tensors_of(p)[i]->grad();
    ASSERT_TRUE(gradient.defined()) << c.name();
    EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << c.name();
    // -inf has no neighbourhood, and 0 may not be passed: those elements stay.
    const Tensor direction =
        at::where((value == 0).logical_or(value.isinf()), 0, at::randn_like(value) * 0.5);
    const double step = 1e-6;
    const auto loss_at = [&](double offset) {
      Problem moved = p;
      for (Tensor* x : tensors_of(moved))
        *x = x->detach();
      *tensors_of(moved)[i] = value + offset * direction;
      return loss(ops::decay_scan(moved.in, moved.state, Impl::Reference)).item<double>();
    };
    const double expected = (loss_at(step) - loss_at(-step)) / (2 * step);
    const double actual = (gradient * direction).sum().item<double>();
    EXPECT_NEAR(actual, expected, 1e-6 * (1 + std::abs(expected))) << c.name() << " input " << i;
  }
}

TEST(DecayScan, GradientsAreThoseOfFiniteDifferences) {
  for (const Variant& variant : variants())
    for (const Decay decay : {Decay::Weak, Decay::Resets, Decay::Exactly})
      expect_gradients({.variant = variant,
                        .decay = decay,
                        .B = 2,
                        .T = 37,
                        .K = 4,
                        .V = 3,
                        .type = at::kDouble,
                        .seed = 5});
}

TEST(DecayScan, GradientsReachAGate) {
  for (const Variant& variant : raw_variants())
    expect_gradients({.variant = variant, .T = 37, .H = 1, .K = 4, .V = 3, .type = at::kDouble});
}

TEST(DecayScan, GradientsCrossBlocks) {  // more tokens than one recomputed block holds
  expect_gradients(
      {.variant = variant_of("mamba1"), .T = 600, .H = 3, .V = 1, .type = at::kDouble});
  expect_gradients(
      {.variant = variant_of("rwkv6"), .T = 150, .H = 70, .V = 4, .type = at::kDouble});
}

/// The recurrence as its definition says it, one token after the other, in operators that autograd
/// knows.
ScanResult token_by_token(const ScanInputs& in, Tensor state) {
  std::vector<Tensor> ys;
  for (int64_t t = 0; t < in.q.size(1); ++t) {
    const auto now = [t](const Tensor& x) { return x.select(1, t); };  // [B,H,...]
    const auto outer = [](const Tensor& k, const Tensor& v) {
      return k.unsqueeze(-1) * v.unsqueeze(-2);
    };
    const Tensor q = now(in.q), k = now(in.k), v = now(in.v);
    const Tensor log_decay =
        in.factored_decay ? now(in.factored_decay->step).unsqueeze(-1) * in.factored_decay->rate
                          : now(in.log_decay);
    Tensor next = log_decay.exp().unsqueeze(-1) * state +
                  outer(k, in.v_scale ? v * now(*in.v_scale).unsqueeze(-1) : v);
    if (in.erase)
      next = next - outer(now(in.erase->write),
                          at::matmul(now(in.erase->read).unsqueeze(-2), state).squeeze(-2));
    const Tensor read = in.bonus ? state + outer(*in.bonus * k, v) : next;
    ys.push_back(at::matmul(q.unsqueeze(-2), read).squeeze(-2));
    state = next;
  }
  return {at::stack(ys, 1), state};
}

/// Of a fixed random sum over outputs and final state, by each tensor of the problem.
std::vector<Tensor> gradients_of(Problem p, const std::function<ScanResult(const Problem&)>& scan) {
  for (Tensor* x : tensors_of(p))
    *x = x->detach().clone().requires_grad_();
  const ScanResult out = scan(p);
  at::manual_seed(11);
  const Tensor of_y = at::randn(out.y.sizes(), out.y.options());  // randn_like follows strides
  const Tensor of_state = at::randn(out.state.sizes(), out.state.options());
  ((out.y * of_y).sum() + (out.state * of_state).sum()).backward();
  std::vector<Tensor> gradients;
  for (Tensor* x : tensors_of(p))
    gradients.push_back(x->grad());
  return gradients;
}

TEST(DecayScan, GradientsAreThoseOfTheTokenByTokenLoop) {
  for (const Variant& variant : variants())
    for (const Decay decay : {Decay::Weak, Decay::Resets, Decay::Exactly}) {
      const Case c = {.variant = variant,
                      .decay = decay,
                      .B = 2,
                      .T = 70,
                      .K = 4,
                      .V = variant.terms.decay == DecayForm::Factored ? 1 : 3,
                      .type = at::kDouble,
                      .seed = 6};
      const Problem problem = make_problem(c);
      const auto expected =
          gradients_of(problem, [](const Problem& p) { return token_by_token(p.in, p.state); });
      const auto actual = gradients_of(
          problem, [](const Problem& p) { return ops::decay_scan(p.in, p.state, Impl::Aten); });
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(close(actual[i], expected[i], 1e-11)) << c.name() << " input " << i;
    }
}

TEST(DecayScan, TheReferencesBackwardIsThatOfTheTokenByTokenLoop) {
  for (Variant variant : variants())
    for (const Decay decay : {Decay::Weak, Decay::Resets, Decay::Exactly, Decay::Never}) {
      Problem problem = make_problem({.variant = variant,
                                      .decay = decay,
                                      .B = 2,
                                      .T = 40,
                                      .K = 4,
                                      .V = 3,
                                      .type = at::kDouble,
                                      .seed = 8});
      if (!kernels::decay_scan_backward_takes(problem.in))
        continue;
      const auto expected =
          gradients_of(problem, [](const Problem& p) { return token_by_token(p.in, p.state); });
      const auto actual = gradients_of(problem, [](const Problem& p) {
        return ops::decay_scan(p.in, p.state, Impl::Reference);
      });
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(close(actual[i], expected[i], 1e-12))
            << name_of(variant) << ' ' << name_of(decay) << " input " << i;
    }
}

TEST(DecayScan, TheReferencesBackwardReachesAGateAndOneOutputAlone) {
  for (const Variant& variant : raw_variants()) {
    // One head: the bounds of the first of several are 0, where they have no gradient.
    const Problem problem =
        make_problem({.variant = variant, .T = 12, .H = 1, .type = at::kDouble});
    for (const bool of_state : {false, true}) {
      const auto gradients = [&](Impl impl) {
        return gradients_of(problem, [&](const Problem& p) {
          ScanResult out = ops::decay_scan(p.in, p.state, impl);
          (of_state ? out.y : out.state) = (of_state ? out.y : out.state).detach();
          return out;
        });
      };
      const auto expected = gradients(Impl::Aten), actual = gradients(Impl::Reference);
      for (size_t i = 0; i < expected.size(); ++i)
        if (expected[i].defined()) {
          EXPECT_TRUE(close(actual[i], expected[i], 1e-11)) << name_of(variant) << " input " << i;
        }
    }
  }
}

Error::Kind kind_thrown(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.kind();
  }
  return Error::Kind::Disagreement;
}

TEST(DecayScan, RefusesWhatTheContractForbids) {
  const Problem good = make_problem({.T = 5});
  const auto expect_refused = [&](const char* what, const std::function<void(Problem&)>& spoil) {
    Problem p = good;
    spoil(p);
    EXPECT_EQ(kind_thrown([&] { ops::decay_scan(p.in, p.state); }), Error::Kind::Internal) << what;
  };
  expect_refused("a growing state", [](Problem& p) { p.in.log_decay = p.in.log_decay + 1; });
  expect_refused("a short k", [](Problem& p) { p.in.k = p.in.k.narrow(1, 0, 4); });
  expect_refused("integers", [](Problem& p) { p.in.v = p.in.v.to(at::kLong); });
  expect_refused("a bf16 decay",
                 [](Problem& p) { p.in.log_decay = p.in.log_decay.to(at::kBFloat16); });
  expect_refused("no decay", [](Problem& p) { p.in.log_decay = Tensor(); });
  expect_refused("a strided last axis", [](Problem& p) {
    p.in.v = at::zeros({1, 5, 2, 16}).slice(3, 0, 16, 2);
  });
  expect_refused("a bonus key without a bonus", [](Problem& p) { p.in.bonus_k = p.in.k; });
}

TEST(DecayScan, TheChoiceFollowsLengthDecayAndGradient) {
  const auto chosen = [](const Problem& p) { return ops::choose(p.in, p.state); };
  for (const Variant& variant : variants()) {
    const DecayForm decay = variant.terms.decay;
    const auto tokens = [&](int64_t T) {
      return make_problem({.variant = variant, .T = T, .V = decay == DecayForm::Factored ? 1 : 8});
    };
    EXPECT_EQ(chosen(tokens(8)), Impl::Step) << name_of(variant);
    const Impl beyond = decay == DecayForm::PerHead ? Impl::Tiled : Impl::Aten;
    EXPECT_EQ(ops::choose(kernels::repeat_token(tokens(3).in, 9), tokens(3).state), beyond);
    Problem p = tokens(9);
    EXPECT_EQ(chosen(p), beyond);
    for (const Impl asked : {Impl::Auto, Impl::Chunked})
      EXPECT_EQ(ops::choose(p.in, p.state, asked), beyond);
    p.state.requires_grad_();
    EXPECT_EQ(chosen(p), Impl::Aten);
  }
  const Problem wide = make_problem({.T = 4, .type = at::kDouble});
  EXPECT_EQ(chosen(wide), Impl::Aten);
}

TEST(DecayScan, AProgramThatIsNamedNeverFallsBack) {
  Problem p = make_problem({.T = 50});
  for (const Impl impl : {Impl::Reference, Impl::Step, Impl::Tiled, Impl::Aten})
    EXPECT_EQ(ops::choose(p.in, p.state, impl), impl);
  const auto message = [&](Impl impl) -> std::string {
    try {
      ops::decay_scan(p.in, p.state, impl);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Unsupported);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(Impl::Cuda).find("those that do: step, tiled, aten, reference"),
            std::string::npos);
  p.in.v.requires_grad_();
  EXPECT_NE(message(Impl::Tiled).find("with a gradient; those that do: aten, reference"),
            std::string::npos);
  p = make_problem({.variant = variant_of("rwkv6"), .T = 50});
  EXPECT_NE(message(Impl::Tiled).find("'tiled'"), std::string::npos);
}

TEST(DecayScan, ProgramsHaveNames) {
  for (const Impl impl : {Impl::Auto, Impl::Chunked, Impl::Reference, Impl::Step, Impl::Tiled,
                          Impl::Aten, Impl::Cuda})
    EXPECT_EQ(ops::parse_impls(impl_name(impl)).scan, impl);
  EXPECT_EQ(kind_thrown([] { ops::parse_impls("quick"); }), Error::Kind::Usage);
}

TEST(ScanInputs, TheListOfTensorsNamesEachOnce) {
  Problem p = make_problem({.variant = variant_of("rwkv6"), .T = 3});
  p.in.bonus_k = p.in.k;
  p.in.v_scale = at::ones({1, 3, 2});
  p.in.erase = Erase{p.in.k, p.in.k};
  std::vector<std::string> names;
  const ScanInputs& in = p.in;
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    names.emplace_back(field.name);
    EXPECT_EQ(static_cast<int64_t>(field.axes.size()), x.dim()) << field.name;
  });
  EXPECT_EQ(names, (std::vector<std::string>{"q", "k", "v", "log_decay", "v_scale", "bonus",
                                             "bonus_k", "erase.read", "erase.write"}));
  names.clear();
  const ScanInputs factored = make_problem({.variant = variant_of("mamba1"), .T = 3, .V = 1}).in;
  visit_tensors(factored,
                [&](const ScanField& field, const Tensor&) { names.emplace_back(field.name); });
  EXPECT_EQ(names, (std::vector<std::string>{"q", "k", "v", "v_scale", "factored_decay.step",
                                             "factored_decay.rate"}));
  names.clear();
  for (const Variant& variant : raw_variants()) {
    const ScanInputs raw = make_problem({.variant = variant, .T = 3}).in;
    visit_tensors(raw,
                  [&](const ScanField& field, const Tensor&) { names.emplace_back(field.name); });
  }
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"bonus", "gate.base", "gate.base", "gate.raw",
                                             "gate.raw", "k", "q", "q", "v", "v"}));
}

}  // namespace
}  // namespace stuffed
