// Each mitigation against its definition in plain f64 loops, and against itself across cuts, forks
// and copies of the state.
#include "stuffed/recurrence/mitigations.h"

#include <cctype>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/error.h"
#include "stuffed/recurrence/recurrence.h"
#include "tests/support/scan_variants.h"

namespace stuffed {

namespace {

using scan_cases::Case;
using scan_cases::Decay;
using scan_cases::Problem;
using scan_cases::Variant;
using scan_cases::variant_of;
using testing::bitwise_equal;
using testing::close;

Tensor limits(double value) {
  return at::full({1, 2}, value, at::kDouble);
}

std::shared_ptr<const Recurrence> rule(const std::vector<std::string>& mitigations,
                                       Impl impl = Impl::Auto) {
  return build_recurrence(
      {.mitigations = mitigations, .impl = impl, .read_limits = [](const std::string& file) {
         return limits(std::stod(file));
       }});
}

Problem problem(const Variant& variant, int64_t T, at::ScalarType type, Decay decay = Decay::Weak) {
  Problem p = scan_cases::make_problem({.variant = variant,
                                        .decay = decay,
                                        .B = 2,
                                        .T = T,
                                        .H = 2,
                                        .K = 8,
                                        .V = 4,
                                        .type = type,
                                        .seed = 7});
  p.state = at::zeros_like(p.state);
  return p;
}

ScanInputs tokens(const ScanInputs& in, int64_t begin, int64_t length) {
  return kernels::tokens_of(in, begin, begin + length);
}

/// Runs a stream in segments that end at `cuts`; the state may be exchanged after each.
Tensor run(const Recurrence& rule,
           const ScanInputs& in,
           LayerState& layer,
           const std::vector<int64_t>& cuts = {},
           const std::function<void(LayerState&)>& between = {}) {
  std::vector<Tensor> parts;
  int64_t begin = 0;
  std::vector<int64_t> ends = cuts;
  ends.push_back(in.q.size(1));
  for (const int64_t end : ends) {
    parts.push_back(rule.advance({0, begin}, tokens(in, begin, end - begin), layer));
    if (between)
      between(layer);
    begin = end;
  }
  return at::cat(parts, 1);
}

struct Outcome {
  Tensor y;
  LayerState layer;
};

Outcome run(const std::vector<std::string>& mitigations,
            const Problem& p,
            const std::vector<int64_t>& cuts = {},
            const std::function<void(LayerState&)>& between = {}) {
  Outcome out{{}, {.recurrent = p.state, .conv = {}, .shift = {}, .extra = {}}};
  out.y = run(*rule(mitigations), p.in, out.layer, cuts, between);
  return out;
}

/// Those that erase nothing: their transition is diagonal.
std::vector<Variant> diagonal() {
  std::vector<Variant> all = scan_cases::variants();
  std::erase_if(all, [](const Variant& variant) { return variant.terms.has_erase; });
  return all;
}

/// log_decay [B,T,H,K] whatever its form.
Tensor log_decay_of(const ScanInputs& in) {
  return in.factored_decay ? in.factored_decay->step.unsqueeze(-1) * in.factored_decay->rate +
                                 in.factored_decay->offset
                           : in.log_decay.expand(in.q.sizes());
}

// ---- neutral settings ----

TEST(Mitigations, NeutralSettingsChangeNoBit) {
  for (const Variant& variant : scan_cases::variants()) {
    const Problem p = problem(variant, 100, at::kFloat);
    const Outcome plain = run({}, p, {37});
    for (const std::string name :
         {"scale_gates:decay=1,insert=1,dt=1", "scale_gates", "clip_insert:max=inf",
          "clip_insert:max=1e30", "clamp_norm:limits=1,multiplier=inf,every=3",
          "sliding_window:tokens=100"}) {
      if (variant.terms.has_erase && name.starts_with("sliding"))
        continue;
      const Outcome same = run({name}, p, {37});
      EXPECT_TRUE(bitwise_equal(same.y, plain.y)) << name << scan_cases::name_of(variant);
      EXPECT_TRUE(bitwise_equal(same.layer.recurrent, plain.layer.recurrent)) << name;
    }
    const Outcome cut = run({}, p, {32, 64, 96});
    const Outcome wide = run({"clamp_norm:limits=1e30,every=32"}, p);
    EXPECT_TRUE(bitwise_equal(wide.y, cut.y)) << scan_cases::name_of(variant);
    EXPECT_TRUE(bitwise_equal(wide.layer.recurrent, cut.layer.recurrent));
  }
}

// ---- scale_gates and clip_insert: the reference on inputs changed by hand ----

/// y and state of the plain recurrence in f64, with what is inserted given apart from what the
/// bonus sees.
ScanResult by_hand(const Problem& p,
                   const Tensor& log_decay,
                   const Tensor& inserted_k,
                   double v_scale) {
  ScanInputs in = p.in;
  in.log_decay = log_decay;
  in.factored_decay = {};
  in.k = inserted_k;
  if (in.v_scale)
    in.v_scale = *in.v_scale * v_scale;
  if (in.bonus)
    in.bonus_k = p.in.k;
  return kernels::decay_scan_cpu(in, p.state);
}

/// Keeps what it is shown last.
struct LastSeen : Observer {
  ScanInputs in;
  void on_update(Where, const ScanInputs& inputs, const LayerState&) override { in = inputs; }
};

TEST(Mitigations, AndObserversGetTheLogDecayOfAGate) {
  for (const Variant& variant : scan_cases::raw_variants()) {
    const Problem p = problem(variant, 130, at::kFloat);
    const Problem stored = {ops::with_log_decay(p.in), p.state};
    for (const char* text : {"scale_gates:decay=0.99,insert=0.75", "clip_insert:max=0.3",
                             "sliding_window:tokens=37", "clamp_norm:limits=0.5,every=40"}) {
      const Outcome raw = run({text}, p, {64}), expected = run({text}, stored, {64});
      EXPECT_TRUE(bitwise_equal(raw.y, expected.y)) << variant.name << ' ' << text;
      EXPECT_TRUE(bitwise_equal(raw.layer.recurrent, expected.layer.recurrent)) << text;
    }
    LastSeen observer;
    LayerState layer{.recurrent = p.state, .conv = {}, .shift = {}, .extra = {}};
    build_recurrence({.mitigations = {}, .observer = &observer})->advance({0, 0}, p.in, layer);
    EXPECT_FALSE(observer.in.gate);
    EXPECT_TRUE(bitwise_equal(observer.in.log_decay, stored.in.log_decay)) << variant.name;
    EXPECT_TRUE(bitwise_equal(observer.in.k, stored.in.k)) << variant.name;
  }
}

TEST(ScaleGates, ScalesDecayAndInsertionButNotTheBonus) {
  for (const Variant& variant : diagonal()) {
    const Problem p = problem(variant, 130, at::kDouble);
    const bool has_step = p.in.v_scale.has_value();
    const ScanResult expected =
        by_hand(p, log_decay_of(p.in) + std::log(0.99), has_step ? p.in.k : p.in.k * 0.75, 0.75);
    const Outcome actual = run({"scale_gates:decay=0.99,insert=0.75"}, p, {64, 65});
    EXPECT_TRUE(close(actual.y, expected.y, 1e-12)) << scan_cases::name_of(variant);
    EXPECT_TRUE(close(actual.layer.recurrent, expected.state, 1e-12))
        << scan_cases::name_of(variant);
  }
}

TEST(ScaleGates, StepScalesDecayAndInsertionTogether) {
  for (const Variant& variant : {variant_of("mamba2"), variant_of("mamba1")}) {
    const Problem p = problem(variant, 70, at::kDouble);
    const ScanResult expected = by_hand(p, log_decay_of(p.in) * 0.2 + std::log(0.9), p.in.k, 0.1);
    const Outcome actual = run({"scale_gates:dt=0.2,decay=0.9,insert=0.5"}, p);
    EXPECT_TRUE(close(actual.y, expected.y, 1e-12));
    EXPECT_TRUE(close(actual.layer.recurrent, expected.state, 1e-12));
  }
}

TEST(ScaleGates, PresetsAreTheirPublishedNumbers) {
  const Problem p = problem(variant_of("mamba2"), 70, at::kFloat);
  const auto same = [&](const std::string& a, const std::string& b) {
    EXPECT_TRUE(bitwise_equal(run({a}, p).y, run({b}, p).y)) << a;
  };
  same("rri", "scale_gates:decay=0.9999,insert=0.75");
  same("scale_gates:preset=rri", "scale_gates:decay=0.9999,insert=0.75");
  same("longmamba", "scale_gates:dt=0.2");
  same("scale_gates:preset=rri,insert=0.5", "scale_gates:decay=0.9999,insert=0.5");
  EXPECT_FALSE(bitwise_equal(run({"rri"}, p).y, run({}, p).y));
}

/// "a=1,b=2" without what must be given; those are put into `given` with a value that both share.
std::pair<std::string, std::string> split_keys(std::string_view keys) {
  std::string given, defaults;
  for (size_t begin = 0; begin < keys.size();) {
    const size_t end = std::min(keys.find(',', begin), keys.size());
    const std::string_view item = keys.substr(begin, end - begin);
    const size_t equals = item.find('=');
    const bool must_be_given = std::isupper(item[equals + 1]) != 0;
    (must_be_given ? given : defaults) +=
        must_be_given ? fmt::format("{}=2,", item.substr(0, equals)) : fmt::format("{},", item);
    begin = end + 1;
  }
  return {given, defaults};
}

TEST(Mitigations, TheHelpNamesTheDefaultsThatHold) {
  const Problem p =
      problem(variant_of("mamba2"), 200, at::kFloat);  // longer than clamp_norm's interval
  for (const MitigationHelp& help : mitigation_help()) {
    const auto [given, defaults] = split_keys(help.keys);
    const std::string plain = fmt::format("{}:{}", help.name, given);
    const Outcome expected = run({plain}, p), found = run({plain + defaults}, p);
    EXPECT_TRUE(bitwise_equal(found.y, expected.y)) << help.name;
    EXPECT_TRUE(bitwise_equal(found.layer.recurrent, expected.layer.recurrent)) << help.name;
  }
}

TEST(ClipInsert, BoundsKeysButNotTheBonus) {
  for (const Variant& variant : diagonal()) {
    const Problem p = problem(variant, 130, at::kDouble);
    const ScanResult expected = by_hand(p, log_decay_of(p.in), p.in.k.clamp(-0.3, 0.3), 1);
    const Outcome actual = run({"clip_insert:max=0.3"}, p, {1, 100});
    EXPECT_TRUE(close(actual.y, expected.y, 1e-12)) << scan_cases::name_of(variant);
    EXPECT_TRUE(close(actual.layer.recurrent, expected.state, 1e-12))
        << scan_cases::name_of(variant);
  }
}

TEST(Mitigations, ApplyInTheOrderGiven) {
  const Problem p = problem(variant_of("hgrn2"), 50, at::kDouble);
  const Outcome clip_first = run({"clip_insert:max=0.3", "scale_gates:insert=0.5"}, p);
  const Outcome scale_first = run({"scale_gates:insert=0.5", "clip_insert:max=0.3"}, p);
  EXPECT_TRUE(close(clip_first.y,
                    by_hand(p, log_decay_of(p.in), p.in.k.clamp(-0.3, 0.3) * 0.5, 1).y, 1e-12));
  EXPECT_TRUE(close(scale_first.y,
                    by_hand(p, log_decay_of(p.in), (p.in.k * 0.5).clamp(-0.3, 0.3), 1).y, 1e-12));
}

// ---- clamp_norm: token by token ----

ScanResult clamped_by_hand(const Problem& p, double limit, int64_t every) {
  Tensor state = p.state;
  std::vector<Tensor> parts;
  for (int64_t t = 0; t < p.in.q.size(1); ++t) {
    const ScanResult out = kernels::decay_scan_cpu(tokens(p.in, t, 1), state);
    parts.push_back(out.y);
    state = out.state.clone();
    if ((t + 1) % every == 0)
      for (int64_t b = 0; b < state.size(0); ++b)
        for (int64_t h = 0; h < state.size(1); ++h) {
          const double norm = state[b][h].square().sum().sqrt().item<double>();
          if (norm > limit)
            state[b][h].mul_(limit / norm);
        }
  }
  return {at::cat(parts, 1), state};
}

TEST(ClampNorm, EqualsItsDefinitionAcrossSegments) {
  for (const Variant& variant : scan_cases::variants())
    for (const int64_t every : {1, 7, 64}) {
      const Problem p = problem(variant, 90, at::kDouble);
      const ScanResult expected = clamped_by_hand(p, 2 * 0.6, every);
      EXPECT_FALSE(close(expected.y, run({}, p).y, 1e-3)) << "nothing was clamped";
      const std::string name = fmt::format("clamp_norm:limits=0.6,multiplier=2,every={}", every);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{}, {7, 50}, {1, 2, 63, 64, 65}}) {
        const Outcome actual = run({name}, p, cuts);
        EXPECT_TRUE(close(actual.y, expected.y, 1e-12)) << scan_cases::name_of(variant) << every;
        EXPECT_TRUE(close(actual.layer.recurrent, expected.state, 1e-12));
      }
    }
}

TEST(ClampNorm, LeavesAnEmptyStateEmptyAndKeepsNaN) {
  Problem p = problem(variant_of("hgrn2"), 4, at::kFloat);
  p.in.k = at::zeros_like(p.in.k);
  const Outcome empty = run({"clamp_norm:limits=0,every=2"}, p);
  EXPECT_TRUE(empty.layer.recurrent.eq(0).all().item<bool>());
  p.in.k = at::full_like(p.in.k, std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(run({"clamp_norm:limits=1,every=2"}, p).layer.recurrent.isnan().all().item<bool>());
}

// ---- sliding_window: the scan restarted over the last r tokens ----

Tensor window_by_hand(const Problem& p, int64_t r) {
  std::vector<Tensor> parts;
  for (int64_t t = 0; t < p.in.q.size(1); ++t) {
    const int64_t begin = std::max<int64_t>(0, t - r + 1);
    const ScanResult out =
        kernels::decay_scan_cpu(tokens(p.in, begin, t - begin + 1), at::zeros_like(p.state));
    parts.push_back(out.y.narrow(1, t - begin, 1));
  }
  return at::cat(parts, 1);
}

TEST(SlidingWindow, EqualsTheScanRestartedOverItsTokens) {
  for (const Variant& variant : diagonal())
    for (const Decay decay :
         {Decay::Weak, Decay::Resets, Decay::Exactly, Decay::Never, Decay::OneStrong})
      for (const int64_t r : {1, 5, 32, 70}) {
        if (variant.terms.decay == DecayForm::Factored && decay == Decay::OneStrong)
          continue;  // its steps would have the wrong sign
        const Problem p = problem(variant, 150, at::kDouble, decay);
        const Tensor expected = window_by_hand(p, r);
        const std::string name = fmt::format("sliding_window:tokens={}", r);
        for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{}, {1, 2, 64, 129, 130}}) {
          const Outcome actual = run({name}, p, cuts);
          EXPECT_TRUE(close(actual.y, expected, 1e-12))
              << scan_cases::name_of(variant) << " " << scan_cases::name_of(decay) << " r=" << r;
          const ScanResult last =
              kernels::decay_scan_cpu(tokens(p.in, 150 - r, r), at::zeros_like(p.state));
          EXPECT_TRUE(close(actual.layer.recurrent, last.state, 1e-11))
              << scan_cases::name_of(variant);
        }
      }
}

TEST(SlidingWindow, ForgetsAnOutlierOnceItHasLeft) {
  Problem p = problem(variant_of("hgrn2"), 200, at::kFloat, Decay::Never);
  const Tensor expected = window_by_hand(p, 20);
  p.in.v = p.in.v.clone();
  p.in.v.select(1, 30).mul_(1e9);
  const Outcome actual = run({"sliding_window:tokens=20"}, p, {90});
  // Its rounding errors outlive it by one window: they go at the second multiple of r after it.
  EXPECT_TRUE(close(actual.y.narrow(1, 80, 120), expected.narrow(1, 80, 120), 1e-5));
}

TEST(SlidingWindow, AfterScaledGatesIsTheWindowOfTheScaledInputs) {
  const Problem p = problem(variant_of("rwkv6"), 100, at::kDouble);
  Problem scaled = p;
  scaled.in.log_decay = p.in.log_decay + std::log(0.9);
  scaled.in.k = p.in.k * 0.5;
  scaled.in.bonus_k = p.in.k;
  const Outcome actual =
      run({"scale_gates:decay=0.9,insert=0.5", "sliding_window:tokens=16"}, p, {33});
  EXPECT_TRUE(close(actual.y, window_by_hand(scaled, 16), 1e-12));
}

TEST(SlidingWindow, TakesMixedPrecision) {
  const Problem p = problem(variant_of("mamba2"), 300, at::kBFloat16);
  const Outcome actual = run({"sliding_window:tokens=40"}, p, {100});
  EXPECT_EQ(actual.y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(close(actual.y, window_by_hand(p, 40), 4e-3));
}

TEST(SlidingWindow, RefusesAStateItDidNotMake) {
  const Problem p = problem(variant_of("mamba2"), 10, at::kFloat);
  LayerState layer{.recurrent = p.state, .conv = {}, .shift = {}, .extra = {}};
  try {
    rule({"sliding_window:tokens=4"})->advance({0, 100}, p.in, layer);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Input);
  }
}

// ---- the state is a value under every mitigation ----

const std::vector<std::string> kEach[] = {{"rri"},
                                          {"clip_insert:max=0.3"},
                                          {"clamp_norm:limits=1,every=16"},
                                          {"scale_gates:decay=0.99", "sliding_window:tokens=30"}};

TEST(Mitigations, ForksGoTheirOwnWayAndLeaveTheOriginal) {
  for (const Variant& variant : {variant_of("mamba2"), variant_of("rwkv6"), variant_of("mamba1")})
    for (const auto& mitigations : kEach) {
      Problem p = problem(variant, 120, at::kFloat);
      const auto r = rule(mitigations);
      LayerState layer{.recurrent = p.state, .conv = {}, .shift = {}, .extra = {}};
      r->advance({0, 0}, tokens(p.in, 0, 70), layer);
      const State state{.position = 70, .layers = {layer}};
      const State before = state.select({0, 1});
      const State fork = state.select({1}).fork(2);
      LayerState forked = fork.layers[0], own = layer;
      const Tensor y = r->advance({0, 70}, tokens(p.in, 70, 50), own);
      ScanInputs twice = tokens(p.in, 70, 50);  // row 1 of the batch, in both rows
      const auto row = [](const Tensor& x) { return x.narrow(0, 1, 1).expand(x.sizes()); };
      twice.q = row(twice.q), twice.k = row(twice.k), twice.v = row(twice.v);
      if (twice.log_decay.defined())
        twice.log_decay = row(twice.log_decay);
      if (twice.v_scale)
        twice.v_scale = row(*twice.v_scale);
      if (twice.factored_decay)
        twice.factored_decay->step = row(twice.factored_decay->step);
      const Tensor y_fork = r->advance({0, 70}, twice, forked);
      EXPECT_TRUE(close(y_fork[0], y[1], 1e-6)) << mitigations[0] << scan_cases::name_of(variant);
      EXPECT_TRUE(bitwise_equal(y_fork[0], y_fork[1]));
      EXPECT_TRUE(bitwise_equal(layer.recurrent, before.layers[0].recurrent));
      for (const auto& [slot, x] : before.layers[0].extra)
        EXPECT_TRUE(bitwise_equal(layer.extra.at(slot), x)) << slot;
    }
}

TEST(Mitigations, ACopiedStateContinuesBitForBit) {
  for (const auto& mitigations : kEach) {
    const Problem p = problem(variant_of("mamba2"), 150, at::kFloat);
    const std::vector<int64_t> cuts = {50, 100};
    const Outcome straight = run(mitigations, p, cuts);
    const Outcome copied = run(mitigations, p, cuts, [](LayerState& layer) {
      // What saving and loading do: bytes of contiguous tensors, nothing else.
      layer.recurrent = layer.recurrent.contiguous().clone();
      for (auto& [slot, x] : layer.extra)
        x = x.contiguous().clone();
    });
    EXPECT_TRUE(bitwise_equal(straight.y, copied.y)) << mitigations[0];
  }
}

TEST(Mitigations, AnEmptySegmentChangesNothing) {
  for (const auto& mitigations : kEach) {
    const Problem p = problem(variant_of("rwkv6"), 100, at::kFloat);
    EXPECT_TRUE(bitwise_equal(run(mitigations, p, {0, 48, 48}).y, run(mitigations, p, {48}).y));
  }
}

// ---- refusals ----

Error::Kind refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.kind();
  }
  return Error::Kind::Internal;
}

TEST(Mitigations, RefuseTheDeltaRuleWhereTheyNeedADiagonalDecay) {
  const Problem p = problem(variant_of("rwkv7"), 10, at::kFloat);
  for (const std::string name : {"scale_gates:decay=0.9", "rri", "sliding_window:tokens=4"})
    EXPECT_EQ(refusal([&] { run({name}, p); }), Error::Kind::Unsupported) << name;
  for (const std::string name :
       {"scale_gates:insert=0.5", "clip_insert:max=0.1", "clamp_norm:limits=1,every=2"})
    EXPECT_NO_THROW(run({name}, p)) << name;
}

TEST(Mitigations, RefuseWhatCannotBeMeant) {
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"no_such"},
                                                {"scale_gates:decay=1.1"},
                                                {"scale_gates:decay=x"},
                                                {"scale_gates:preset=none"},
                                                {"scale_gates:speed=1"},
                                                {"clip_insert"},
                                                {"clip_insert:max=-1"},
                                                {"clamp_norm"},
                                                {"clamp_norm:limits=1,every=0"},
                                                {"sliding_window"},
                                                {"sliding_window:tokens=0"},
                                                {"sliding_window:tokens=4", "rri"},
                                                {"clamp_norm:limits=1", "sliding_window:tokens=4"}})
    EXPECT_EQ(refusal([&] { rule(wrong); }), Error::Kind::Usage)
        << fmt::format("{}", fmt::join(wrong, " "));
  const Problem p = problem(variant_of("rwkv6"), 10, at::kFloat);
  EXPECT_EQ(refusal([&] { run({"longmamba"}, p); }), Error::Kind::Usage);
  EXPECT_EQ(refusal([] {
              check_cost({"rri", "clamp_norm:limits=f,every=1"}, 65537);
            }),
            Error::Kind::Usage);
  EXPECT_NO_THROW(check_cost({"clamp_norm:limits=f,every=1"}, 65536));
  EXPECT_NO_THROW(check_cost({"clamp_norm:limits=f,every=2"}, 1 << 30));
}

// ---- a million tokens ----

class SlidingWindowSlow : public ::testing::TestWithParam<double> {};

TEST_P(SlidingWindowSlow, HoldsAfterAMillionTokens) {
  constexpr int64_t kSegment = 8192, kSegments = 128, r = 1000;
  for (const Variant& variant : {variant_of("mamba2"), variant_of("rwkv6"), variant_of("mamba1")}) {
    const auto window = rule({fmt::format("sliding_window:tokens={}", r)});
    LayerState layer{};
    Problem p;
    Tensor y;
    for (int64_t i = 0; i < kSegments; ++i) {
      p = scan_cases::make_problem({.variant = variant,
                                    .T = kSegment,
                                    .H = 2,
                                    .K = 4,
                                    .V = 2,
                                    .seed = static_cast<uint64_t>(i)});
      if (variant.terms.decay == DecayForm::Factored)
        p.in.factored_decay->step = at::full_like(p.in.factored_decay->step, -GetParam());
      else
        p.in.log_decay = at::full_like(p.in.log_decay, GetParam());
      p.in.v = p.in.v + 1;  // a mean that adds up
      if (i == 0)
        layer.recurrent = at::zeros_like(p.state);
      y = window->advance({0, i * kSegment}, p.in, layer);
    }
    // The last tokens of the stream, in f64 from the definition.
    for (const int64_t t : {kSegment - 1, kSegment - 300, kSegment - 1025}) {
      const ScanResult expected = kernels::decay_scan_cpu(
          tokens(p.in, t - r + 1, r), at::zeros_like(layer.recurrent, at::kDouble));
      EXPECT_TRUE(close(y.select(1, t), expected.y.select(1, r - 1), 1e-3))
          << scan_cases::name_of(variant) << " log decay " << GetParam();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(NearOneAndFar,
                         SlidingWindowSlow,
                         ::testing::Values(0.0, -1e-8, -1e-6, -1e-3, -0.1, -3.0));

}  // namespace

}  // namespace stuffed
