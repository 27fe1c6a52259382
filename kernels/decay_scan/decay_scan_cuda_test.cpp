// The CUDA kernels against f64: any decay, length, width, view and plan, and what must hold bit for
// bit.
//
// Building with -DCMAKE_CUDA_FLAGS=-DSTUFFED_BREAK_SCAN=1 makes every state update 1 % too large:
// then these suites must fail.
#include "kernels/decay_scan/decay_scan_cuda.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_call.h"
#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/ops/decay_scan.h"
#include "tests/support/scan_variants.h"

#if STUFFED_WITH_CUDA

namespace stuffed {
namespace {

using kernels::decay_scan_cuda;
using kernels::decay_scan_cuda_f64;
using kernels::decay_scan_cuda_path;
using kernels::map_over_time;
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

Problem to_gpu(const Problem& p) {
  return {kernels::converted(p.in, at::kCUDA), kernels::converted(p.state, at::kCUDA)};
}

/// Memory that the next outputs will probably reuse holds NaN, so an element nobody wrote shows.
void poison(const ScanInputs& in, const Tensor& state) {
  for (int i = 0; i < 2; ++i) {
    const Tensor y = at::full(in.v.sizes(), NAN, in.v.options());
    const Tensor s = at::full({17, state.numel() + 1}, NAN, state.options());
  }
}

/// With what a gate stands for in its place where no kernel takes it.
ScanInputs taken(const ScanInputs& in) {
  return kernels::decay_scan_cuda_takes(in) ? in : ops::with_log_decay(in);
}

ScanResult run(const Problem& p, int segments = 0) {
  const ScanInputs in = taken(p.in);
  poison(p.in, p.state);
  return decay_scan_cuda(in, p.state, segments);
}

int path_of(const Problem& p) {
  return decay_scan_cuda_path(taken(p.in), p.state);
}

/// The worst head's relative RMS error.
double worst_head(const Tensor& actual, const Tensor& expected, at::IntArrayRef axes) {
  if (!actual.isfinite().all().item<bool>())
    return std::numeric_limits<double>::infinity();
  if (expected.numel() == 0)
    return 0;
  const Tensor e = expected.to(actual.device(), at::kDouble);
  const Tensor error = (actual.to(at::kDouble) - e).square().sum(axes);
  return (error / e.square().sum(axes).clamp_min(1e-300)).sqrt().max().item<double>();
}

struct Bounds {
  double y, y_element, state;
};

Bounds bounds_of(const ScanInputs& in) {
  return in.v.scalar_type() == at::kFloat ? Bounds{1e-5, 1e-4, 1e-5} : Bounds{5e-3, 5e-2, 3e-3};
}

void expect_close(const ScanResult& actual,
                  const ScanResult& expected,
                  const Bounds& bounds,
                  const std::string& what) {
  EXPECT_LE(worst_head(actual.y, expected.y, {1, 3}), bounds.y) << what;
  EXPECT_LE(worst_head(actual.state, expected.state, {2, 3}), bounds.state) << what;
  if (expected.y.numel() == 0)
    return;
  // A single element is measured against its own size where that exceeds the head's RMS: y itself
  // is rounded to its type.
  const Tensor e = expected.y.to(actual.y.device(), at::kDouble);
  const Tensor scale = e.square().mean({1, 3}, true).sqrt() + e.abs() + 1e-300;
  EXPECT_LE(((actual.y.to(at::kDouble) - e).abs() / scale).max().item<double>(), bounds.y_element)
      << what;
}

void expect_agreement(const Case& c, int segments = 0) {
  const Problem p = make_problem(c);
  const Problem gpu = to_gpu(p);
  expect_close(run(gpu, segments), decay_scan_cuda_f64(gpu.in, gpu.state), bounds_of(p.in),
               c.name() + " in " + std::to_string(segments) + " segments");
}

/// x as a view of a tensor that holds NaN on all sides but the first axis'.
Tensor surrounded(const Tensor& x, int64_t margin) {
  std::vector<int64_t> sizes = x.sizes().vec();
  for (int64_t axis = 1; axis < x.dim(); ++axis)
    sizes[axis] += 2 * margin;
  Tensor inside = at::full(sizes, NAN, x.options());
  for (int64_t axis = 1; axis < x.dim(); ++axis)
    inside = inside.narrow(axis, margin, x.size(axis));
  return inside.copy_(x);
}

/// The same inputs in another layout: the same bits if the same kernel takes them, and else as
/// close to f64 as any.
void expect_same(const Problem& layout, const Problem& p, int segments, const std::string& what) {
  const ScanResult actual = run(layout, segments);
  if (path_of(layout) != path_of(p)) {
    expect_close(actual, decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in), what);
    return;
  }
  const ScanResult expected = run(p, segments);
  EXPECT_TRUE(bitwise_equal(actual.y, expected.y)) << what;
  EXPECT_TRUE(bitwise_equal(actual.state, expected.state)) << what;
}

/// A case of the widths its family publishes.
Case published(const Variant& variant, int64_t T, at::ScalarType type, Decay decay = Decay::Weak) {
  Case c{
      .variant = variant, .decay = decay, .B = 2, .T = T, .H = 3, .K = 64, .V = 64, .type = type};
  const ScanWidths& widths = find_family(variant.name).widths;
  c.K = widths.key_width;
  c.V = widths.value_width;
  if (c.V == 1)  // heads are channels
    c.H = 130;
  return c;
}

/// The families' variants, and those with a gate once more with it.
std::vector<Variant> all_variants() {
  std::vector<Variant> all = variants();
  for (const Variant& variant : raw_variants())
    all.push_back(variant);
  return all;
}

constexpr at::ScalarType kTypes[] = {at::kBFloat16, at::kFloat};

/// Those of the chunked kernels.
std::vector<Variant> chunked_variants() {
  std::vector<Variant> chunked = raw_variants();
  for (const char* family : {"mamba2", "rwkv6", "hgrn2"})
    chunked.push_back(variant_of(family));
  return chunked;
}

TEST(CudaDecayScan, TheF64KernelIsTheReference) {
  for (const Variant& variant : all_variants())
    for (const Decay decay : kDecays) {
      const Case c = published(variant, 70, at::kFloat, decay);
      const Problem p = make_problem(c), gpu = to_gpu(p);
      const ScanResult expected = ops::decay_scan(p.in, p.state, Impl::Reference);
      const ScanResult actual = decay_scan_cuda_f64(gpu.in, gpu.state);
      EXPECT_TRUE(close(actual.y, expected.y, 1e-6)) << c.name();  // the CPU's are rounded to f32
      EXPECT_TRUE(close(actual.state, expected.state, 1e-6)) << c.name();
    }
}

TEST(CudaDecayScan, AgreesForAnyDecay) {
  for (const Variant& variant : all_variants())
    for (const Decay decay : kDecays)
      for (const at::ScalarType type : kTypes)
        for (const int segments : {1, 4})
          expect_agreement(published(variant, 450, type, decay), segments);
}

TEST(CudaDecayScan, AgreesForAnyLength) {
  for (const Variant& variant : all_variants())
    for (const at::ScalarType type : kTypes)
      for (const int64_t T : {0, 1, 2, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 8193})
        expect_agreement(published(variant, T, type, Decay::Resets));
}

TEST(CudaDecayScan, AgreesForAnyWidth) {
  for (const Variant& variant :
       {variant_of("mamba2"), variant_of("rwkv6"), variant_of("hgrn2"), variant_of("rwkv7")})
    for (const at::ScalarType type : kTypes)
      for (const int64_t K : {16, 24, 32, 64, 128})
        for (const int64_t V : {16, 30, 64, 128})
          expect_agreement({.variant = variant, .B = 2, .T = 150, .K = K, .V = V, .type = type});
}

TEST(CudaDecayScan, AnyPlanAgrees) {
  for (const Variant& variant : all_variants())
    for (const int segments : {2, 3, 8, 16, 40})
      expect_agreement(published(variant, 2000, at::kBFloat16), segments);
}

TEST(CudaDecayScan, EqualPlansGiveEqualBits) {
  for (const Variant& variant : all_variants())
    for (const int segments : {1, 5}) {
      const Problem p = to_gpu(make_problem(published(variant, 1000, at::kBFloat16)));
      const ScanResult both = run(p, segments), again = run(p, segments);
      EXPECT_TRUE(bitwise_equal(again.y, both.y));
      EXPECT_TRUE(bitwise_equal(again.state, both.state));
      const Problem one{kernels::sequences_of(p.in, 1, 2), p.state.slice(0, 1, 2)};
      const ScanResult alone = run(one, segments);
      EXPECT_TRUE(bitwise_equal(alone.y, both.y.slice(0, 1, 2)));
      EXPECT_TRUE(bitwise_equal(alone.state, both.state.slice(0, 1, 2)));
    }
}

TEST(CudaDecayScan, SplitsAnywhere) {
  for (const Variant& variant : all_variants())
    for (const at::ScalarType type : kTypes) {
      const Case c = published(variant, 1000, type);
      const Problem p = to_gpu(make_problem(c));
      const ScanResult whole = run(p, 1);
      Bounds bounds = bounds_of(p.in);
      bounds.y *= 2, bounds.y_element *= 2, bounds.state *= 2;
      for (const int64_t t : {1, 15, 63, 64, 65, 100, 257, 512, 777, 999}) {
        const ScanResult head = run({tokens_of(p.in, 0, t), p.state}, 1);
        const ScanResult tail = run({tokens_of(p.in, t, c.T), head.state}, 1);
        const Tensor y = at::cat({head.y, tail.y}, 1);
        expect_close({y, tail.state}, whole, bounds, c.name() + " at " + std::to_string(t));
        if (t % 64 == 0) {
          EXPECT_TRUE(bitwise_equal(y, whole.y)) << c.name();
          EXPECT_TRUE(bitwise_equal(tail.state, whole.state)) << c.name();
        }
      }
    }
}

TEST(CudaDecayScan, DecodingTracksPrefill) {
  for (const Variant& variant : all_variants()) {
    const Case c = published(variant, 2000, at::kBFloat16);
    const Problem p = to_gpu(make_problem(c));
    const ScanResult expected = decay_scan_cuda_f64(p.in, p.state);
    ScanResult step = run({tokens_of(p.in, 0, 1000), p.state});
    std::vector<Tensor> y{step.y};
    for (int64_t t = 1000; t < c.T; ++t) {
      step = decay_scan_cuda(taken(tokens_of(p.in, t, t + 1)), step.state);
      y.push_back(step.y);
    }
    expect_close({at::cat(y, 1), step.state}, expected, bounds_of(p.in), c.name());
  }
}

TEST(CudaDecayScan, InPlaceGivesTheSameBits) {
  for (const Variant& variant : all_variants())
    for (const at::ScalarType type : kTypes)
      for (const int64_t T : {0, 1, 2, 8, 9, 100}) {
        const Case c = published(variant, T, type, Decay::Resets);
        const Problem p = to_gpu(make_problem(c));
        const ScanResult expected = run(p);
        const Tensor state = p.state.clone();
        EXPECT_TRUE(
            bitwise_equal(kernels::decay_scan_cuda_in_place(taken(p.in), state), expected.y))
            << c.name();
        EXPECT_TRUE(bitwise_equal(state, expected.state)) << c.name();
      }
}

TEST(CudaDecayScan, AThousandStepsAfterALongPrefillTrackF64) {
  constexpr int64_t kPrefill = 65536, kSteps = 1000;
  for (const Variant& variant : all_variants())
    for (const Decay decay : {Decay::Weak, Decay::Tiny})
      for (const at::ScalarType type : kTypes) {
        if (decay == Decay::Tiny && variant.name != "mamba2" && variant.name != "rwkv6")
          continue;  // one scalar and one vector decay where nothing is ever forgotten
        Case c = published(variant, kPrefill + kSteps, type, decay);
        c.B = 1, c.H = std::min<int64_t>(c.H, 2);
        const Problem p = to_gpu(make_problem(c));
        const ScanResult expected = decay_scan_cuda_f64(p.in, p.state);
        const ScanResult prefill = run({tokens_of(p.in, 0, kPrefill), p.state});
        std::vector<Tensor> y;
        for (int64_t t = kPrefill; t < c.T; ++t)
          y.push_back(
              kernels::decay_scan_cuda_in_place(taken(tokens_of(p.in, t, t + 1)), prefill.state));
        const ScanResult actual{at::cat(y, 1), prefill.state};
        Bounds bounds = bounds_of(p.in);
        // One step's decay of 1e-8 is less than half an ulp of an f32 state: each step loses it.
        if (decay == Decay::Tiny)
          bounds.y += kSteps * 1e-8, bounds.state += kSteps * 1e-8;
        expect_close(actual, {expected.y.slice(1, kPrefill, c.T), expected.state}, bounds,
                     c.name());
        fmt::print("{}: y {:.2g}, state {:.2g}\n", c.name(),
                   worst_head(actual.y, expected.y.slice(1, kPrefill, c.T), {1, 3}),
                   worst_head(actual.state, expected.state, {2, 3}));
      }
}

TEST(CudaDecayScan, ReadsNothingAroundAView) {
  for (const Variant& variant : all_variants())
    for (const at::ScalarType type : kTypes)
      for (const int64_t margin : {8, 3}) {  // rows of 16-byte alignment, and not
        const Problem p = to_gpu(make_problem(published(variant, 200, type)));
        const auto surround = [&](const Tensor& x) { return surrounded(x, margin); };
        expect_same({map_over_time(p.in, surround), p.state}, p, 1,
                    fmt::format("{}, margin {}", scan_cases::name_of(variant), margin));
      }
}

TEST(CudaDecayScan, HeadFirstLayoutsAgree) {
  for (const Variant& variant : chunked_variants()) {
    const Problem p = to_gpu(make_problem(published(variant, 200, at::kBFloat16)));
    const auto head_first = [](const Tensor& x) {
      return x.dim() == 4 ? x.transpose(1, 2).contiguous().transpose(1, 2) : x;
    };
    expect_same({map_over_time(p.in, head_first), p.state}, p, 0, scan_cases::name_of(variant));
  }
}

TEST(CudaDecayScan, TwiceTheValuesAreTwiceTheOutput) {
  for (const Variant& variant : all_variants()) {
    Problem p = to_gpu(make_problem(published(variant, 300, at::kBFloat16)));
    const ScanResult once = run(p);
    p.in.v = p.in.v * 2;
    p.state = p.state * 2;
    const ScanResult twice = run(p);
    EXPECT_TRUE(bitwise_equal(twice.y, once.y * 2));
    EXPECT_TRUE(bitwise_equal(twice.state, once.state * 2));
  }
}

TEST(CudaDecayScan, TakesExtremeValues) {
  for (const Variant& variant : chunked_variants())
    for (const double size : {1e-38, 1e-20, 65504., 1e30}) {
      Problem p = to_gpu(make_problem(published(variant, 200, at::kBFloat16)));
      p.in.v = p.in.v * size;
      p.state = p.state * size;
      if (p.in.k.defined())
        p.in.k = p.in.k * (size > 1 ? 1e-3 : 1);
      else if (size < 1e-37)  // a weak gate's keys are small: the state's copy in bf16 lacks digits
        continue;
      expect_close(run(p), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
                   scan_cases::name_of(variant));
    }
}

TEST(CudaDecayScan, DecaysAroundWhatAMiddleHoldsAgree) {
  // Nats a token. 60 bits are 42 nats: 32 tokens of 1.3, or 8 of 5.2.
  for (const double rate : {0.5, 1.25, 1.35, 3., 5., 5.5, 9.})
    for (const Variant& variant : {variant_of("rwkv6"), variant_of("hgrn2")})
      for (const int segments : {1, 3}) {
        Problem p = make_problem(published(variant, 500, at::kBFloat16));
        p.in.log_decay = -rate * (1 - 0.02 * at::rand_like(p.in.log_decay));
        p.in.log_decay.narrow(1, 130, 200).mul_(1e-3);  // weak for a while
        for (const bool raw : {false, true}) {
          if (raw)
            scan_cases::use_gate(p.in, variant.terms.gate);
          const Problem gpu = to_gpu(p);
          expect_close(run(gpu, segments), decay_scan_cuda_f64(gpu.in, gpu.state), bounds_of(p.in),
                       fmt::format("{}, {} nats, raw {}", scan_cases::name_of(variant), rate, raw));
        }
      }
}

TEST(CudaDecayScan, QAndKOfAnySizeAgreeForAnyDecay) {
  for (const double size : {1e-36, 1e-25, 1e-15, 1e15, 1e25})
    for (const double rate : {0.01, 1.2, 4., 9.})
      for (const bool is_q : {true, false}) {
        Problem p = make_problem(published(variant_of("hgrn2"), 200, at::kBFloat16));
        p.in.log_decay = -rate * at::rand_like(p.in.log_decay);
        Tensor& x = is_q ? p.in.q : p.in.k;
        x = x * size;
        if (!is_q)
          p.state = p.state * size;
        for (const bool raw : {false, true}) {
          if (raw && !is_q)
            break;  // k is made of the gate
          if (raw)
            scan_cases::use_gate(p.in, GateKind::Forget);
          const Problem gpu = to_gpu(p);
          expect_close(
              run(gpu, 1), decay_scan_cuda_f64(gpu.in, gpu.state), bounds_of(p.in),
              fmt::format("{} times {}, {} nats, raw {}", is_q ? "q" : "k", size, rate, raw));
        }
      }
}

TEST(CudaDecayScan, WhatAStrongDecayLeavesOfALargeStateIsKept) {
  for (const at::ScalarType type : kTypes)
    for (const Variant& variant : variants()) {
      if (variant.terms.has_erase || variant.terms.decay == DecayForm::Factored)
        continue;  // the first erases the state, the second has no log_decay to set
      for (const int segments : {1, 3}) {
        Problem p = make_problem(published(variant, 700, type));
        p.in.log_decay = at::full_like(p.in.log_decay, -1. / 1024)
                             .contiguous();       // sums of these and 25 are exact
        p.in.log_decay.select(1, 70).fill_(-25);  // 1e12 becomes 14
        p.state = p.state * 1e12;
        p = to_gpu(p);
        expect_close(run(p, segments), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
                     scan_cases::name_of(variant));
      }
    }
}

TEST(CudaDecayScan, OnlyWhatIsForgottenIsLeftOutOfASum) {
  // Heads that forget within a few tokens, within a segment, never, and after a strong token.
  for (const int segments : {3, 5, 9}) {
    Problem p = make_problem(published(variant_of("mamba2"), 6000, at::kBFloat16));
    p.in.log_decay = at::empty(p.in.log_decay.sizes());
    const double decays[] = {-3., -0.3, -0.05, -1e-4, 0.};
    for (int64_t h = 0; h < p.in.log_decay.size(2); ++h) {
      p.in.log_decay.select(2, h).fill_(decays[h % 5]);
      p.in.log_decay.select(2, h).narrow(1, 100 * h % 5900, 1).fill_(h % 2 ? -120. : -30.);
    }
    p = to_gpu(p);
    expect_close(run(p, segments), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
                 fmt::format("{} segments", segments));
  }
}

TEST(CudaDecayScan, TheBonusMayHaveItsOwnKeyAndTheInsertionAScale) {
  for (const at::ScalarType type : kTypes)
    for (const Variant& variant : {variant_of("rwkv6"), variant_of("mamba2")}) {
      const Case c = published(variant, 200, type);
      Problem p = make_problem(c);
      p.in.bonus = at::randn({c.H, c.K});
      p.in.bonus_k = at::randn({c.B, c.T, c.H, c.K}).to(type);
      p.in.v_scale = at::rand({c.B, c.T, c.H});
      p = to_gpu(p);
      expect_close(run(p), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in), c.name());
    }
}

/// One decay per head where q and k are each head's own, or shared; any number of heads, of
/// columns.
TEST(CudaDecayScan, HeadsMayShareKeysOrNot) {
  for (const bool shared : {true, false})
    for (const int64_t H : {1, 2, 5})
      for (const int64_t V : {32, 40, 64, 72, 128, 192}) {
        Case c = published(variant_of("mamba2"), 200, at::kBFloat16, Decay::Resets);
        c.H = H, c.V = V;
        Problem p = to_gpu(make_problem(c));
        if (!shared)
          for (Tensor* x : {&p.in.q, &p.in.k})
            *x = at::randn(x->sizes(), x->options()) / 4;
        expect_close(run(p, 1), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
                     fmt::format("{}, shared {}", c.name(), shared));
      }
}

/// Mamba-1 with channels side by side and B and C that they share.
Problem side_by_side(int64_t B, int64_t H, int64_t T, Decay decay, bool scales_by_step) {
  Case c = published(variant_of("mamba1"), T, at::kBFloat16, decay);
  c.B = B, c.H = H;
  Problem p = to_gpu(make_problem(c));
  const auto shared = [](const Tensor& x) {
    return x.narrow(2, 0, 1).contiguous().expand(x.sizes());
  };
  p.in.q = shared(p.in.q), p.in.k = shared(p.in.k);
  if (scales_by_step) {
    p.in.factored_decay->step.clamp_max_(20);  // v_scale as well: the state stays of one size
    p.in.v_scale = p.in.factored_decay->step;
  }
  return p;
}

constexpr int kTiledFactored = 6;

TEST(CudaDecayScan, ChannelsSideBySideAgree) {
  for (const int64_t B : {1, 5})  // 40 CTAs, and more than there are processors
    for (const bool scales_by_step : {true, false})
      for (const Decay decay : kDecays) {
        const Problem p = side_by_side(B, 1280, 333, decay, scales_by_step);
        EXPECT_EQ(decay_scan_cuda_path(p.in, p.state), kTiledFactored);
        expect_close(
            run(p), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
            fmt::format("B {}, {}, by step {}", B, scan_cases::name_of(decay), scales_by_step));
      }
}

TEST(CudaDecayScan, ChannelsSideBySideAgreeForAnyLength) {
  for (const int64_t B : {1, 150})
    for (const int64_t T : {9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000}) {
      const Problem p = side_by_side(B, 32, T, Decay::Resets, true);
      EXPECT_EQ(decay_scan_cuda_path(p.in, p.state), kTiledFactored);
      expect_close(run(p), decay_scan_cuda_f64(p.in, p.state), bounds_of(p.in),
                   fmt::format("B {}, T {}", B, T));
    }
}

TEST(CudaDecayScan, ChannelsSideBySideKeepTheirBits) {
  for (const int64_t B : {1, 5}) {
    const Problem p = side_by_side(B, 1280, 640, Decay::Weak, false);
    const ScanResult whole = run(p), again = run(p);
    EXPECT_TRUE(bitwise_equal(again.y, whole.y));
    EXPECT_TRUE(bitwise_equal(again.state, whole.state));
    for (const int64_t t : {64, 320, 576}) {
      const ScanResult head = run({tokens_of(p.in, 0, t), p.state});
      const ScanResult tail = run({tokens_of(p.in, t, 640), head.state});
      EXPECT_TRUE(bitwise_equal(at::cat({head.y, tail.y}, 1), whole.y)) << t;
      EXPECT_TRUE(bitwise_equal(tail.state, whole.state)) << t;
    }
    for (const int64_t margin : {8, 3})
      expect_same(
          {map_over_time(p.in, [&](const Tensor& x) { return surrounded(x, margin); }), p.state}, p,
          0, fmt::format("margin {}", margin));
  }
}

TEST(CudaDecayScan, HopperTakesThePublishedShapes) {
  if (cuda_library()->capability_major(0) != 9)
    GTEST_SKIP() << "needs a Hopper GPU";
  constexpr int kScalar = 0, kVector = 1, kTokens = 2, kScalarHopper = 4, kVectorHopper = 5,
                kWideHopper = 7, kEraseHopper = 8;
  const auto path = [](const Problem& p) { return decay_scan_cuda_path(p.in, p.state); };
  const Problem p = to_gpu(make_problem(published(variant_of("mamba2"), 200, at::kBFloat16)));
  EXPECT_EQ(path(p), kScalarHopper);
  EXPECT_EQ(path({tokens_of(p.in, 0, 8), p.state}), kTokens);
  Problem own = p;
  own.in.q = p.in.q.contiguous();
  EXPECT_EQ(path(own), kScalar);
  Problem misaligned = p;
  misaligned.in.v = at::zeros({2, 200, 3, 67}, p.in.v.options()).narrow(3, 1, 64);
  EXPECT_EQ(path(misaligned), kScalar);
  for (const Variant& variant : {variant_of("rwkv5"), variant_of("rwkv6")}) {
    Problem rwkv = to_gpu(make_problem(published(variant, 200, at::kBFloat16)));
    EXPECT_EQ(path(rwkv), kVectorHopper);
    rwkv.in.bonus.reset();
    EXPECT_EQ(path(rwkv), kVector);
  }
  const Problem hgrn = to_gpu(make_problem(published(variant_of("hgrn2"), 200, at::kBFloat16)));
  EXPECT_EQ(path(hgrn), kWideHopper);
  EXPECT_EQ(path({tokens_of(hgrn.in, 0, 8), hgrn.state}), kTokens);
  Problem with_bonus = hgrn;
  with_bonus.in.bonus = at::zeros({3, 128}, hgrn.state.options());
  EXPECT_EQ(path(with_bonus), kVector);
  const Problem rwkv7 = to_gpu(make_problem(published(variant_of("rwkv7"), 200, at::kBFloat16)));
  EXPECT_EQ(path(rwkv7), kEraseHopper);
  EXPECT_EQ(path({tokens_of(rwkv7.in, 0, 8), rwkv7.state}), kTokens);
  for (const Variant& variant : raw_variants()) {
    const Case c = published(variant, 200, at::kBFloat16);
    const Problem raw = to_gpu(make_problem(c));
    EXPECT_TRUE(kernels::decay_scan_cuda_takes(raw.in));
    EXPECT_EQ(path(raw), c.K == 64 ? kVectorHopper : kWideHopper);
    EXPECT_FALSE(kernels::decay_scan_cuda_takes(tokens_of(raw.in, 0, 8)));
    EXPECT_EQ(ops::choose(tokens_of(raw.in, 0, 8), raw.state), Impl::Cuda);
    EXPECT_FALSE(kernels::decay_scan_cuda_takes(kernels::converted(raw.in, at::kFloat)));
    Problem odd = raw;
    odd.in.gate->raw = at::zeros({2, 200, 3, c.K + 3}, p.in.v.options()).narrow(3, 1, c.K);
    EXPECT_FALSE(kernels::decay_scan_cuda_takes(odd.in));
  }
  misaligned = hgrn;
  misaligned.in.log_decay = at::zeros({2, 200, 3, 131}, hgrn.state.options()).narrow(3, 1, 128);
  EXPECT_EQ(path(misaligned), kVector);
}

}  // namespace
}  // namespace stuffed

#endif
