// The tiled scan of the CPU: every level of the instruction set, and what only it does.
#include "kernels/decay_scan/decay_scan_tile.h"

#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "tests/support/scan_variants.h"

namespace stuffed {
namespace {

using scan_cases::Decay;
using scan_cases::make_problem;
using scan_cases::Problem;
using testing::close;

float* data(const Tensor& x) {
  return x.data_ptr<float>();
}

TEST(DecayScanTile, EveryLevelOfTheInstructionSetAgrees) {
  for (const int64_t tokens : {1, 8, 9, 50, 64}) {
    const Problem p = make_problem({.decay = Decay::Resets, .T = tokens, .H = 1, .K = 24, .V = 32});
    const ScanResult expected = kernels::decay_scan_cpu(p.in, p.state);
    Tensor q = at::zeros({64, 24}), k_t = at::zeros({24, 64}), v = at::zeros({64, 32});
    Tensor log_decay = at::zeros({64}), v_scale = at::zeros({64});
    q.narrow(0, 0, tokens).copy_(p.in.q.select(2, 0)[0]);
    k_t.narrow(1, 0, tokens).copy_(p.in.k.select(2, 0)[0].t());
    v.narrow(0, 0, tokens).copy_(p.in.v.select(2, 0)[0]);
    log_decay.narrow(0, 0, tokens).copy_(p.in.log_decay.flatten());
    v_scale.narrow(0, 0, tokens).copy_(p.in.v_scale->flatten());
    for (const kernels::TileOps& ops : kernels::tile_ops()) {
      const auto unset = [](at::IntArrayRef shape) { return at::full(shape, NAN); };
      const Tensor scores = unset({64, 64}), weights = unset({64, 64}), inserted = unset({64, 32}),
                   y = unset({64, 32}), state = p.state[0][0].contiguous().clone();
      ops.scores(data(q), data(k_t), 24, data(scores));
      ops.advance({.tokens = tokens,
                   .keys = 24,
                   .columns = 32,
                   .q = data(q),
                   .k_t = data(k_t),
                   .scores = data(scores),
                   .log_decay = data(log_decay),
                   .v_scale = data(v_scale),
                   .v = data(v),
                   .weights = data(weights),
                   .inserted = data(inserted),
                   .state = data(state),
                   .y = data(y)});
      EXPECT_TRUE(close(y.narrow(0, 0, tokens), expected.y.select(2, 0)[0], 1e-6)) << tokens;
      EXPECT_TRUE(close(state, expected.state[0][0], 1e-6)) << tokens;
    }
  }
}

void expect_agreement(const Problem& p, double bound) {
  ASSERT_TRUE(kernels::decay_scan_tiled_takes(p.in, p.state));
  const ScanResult expected = kernels::decay_scan_cpu(p.in, p.state);
  const ScanResult actual = kernels::decay_scan_tiled(p.in, p.state);
  EXPECT_TRUE(close(actual.y, expected.y, bound));
  EXPECT_TRUE(close(actual.state, expected.state, 1e-5));
  EXPECT_EQ(actual.y.scalar_type(), p.in.v.scalar_type());
}

TEST(DecayScanTile, WidthsNeedNoMultiples) {
  for (const auto& [K, V] : {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {128, 64}, {9, 100}})
    expect_agreement(make_problem({.B = 2, .T = 130, .H = 3, .K = K, .V = V}), 1e-6);
}

TEST(DecayScanTile, TakesQAndKOfEachHead) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    Problem p = make_problem({.B = 2, .T = 100, .H = 5, .type = type});
    p.in.q = at::randn(p.in.q.sizes()).to(type);
    p.in.v_scale = std::nullopt;
    expect_agreement(p, type == at::kFloat ? 1e-6 : 5e-3);
    p.in.k = at::randn(p.in.k.sizes()).to(type);
    expect_agreement(p, type == at::kFloat ? 1e-6 : 5e-3);
  }
}

TEST(DecayScanTile, AnInfiniteDecayForgetsExactly) {
  Problem p = make_problem({.T = 70, .H = 1});
  p.in.log_decay = p.in.log_decay.clone();
  p.in.log_decay.select(1, 66).fill_(-std::numeric_limits<double>::infinity());
  const ScanResult once = kernels::decay_scan_tiled(p.in, p.state);
  const ScanResult other = kernels::decay_scan_tiled(p.in, p.state * 1e30);
  EXPECT_TRUE(testing::bitwise_equal(once.state, other.state));
  EXPECT_TRUE(testing::bitwise_equal(once.y.narrow(1, 66, 4), other.y.narrow(1, 66, 4)));
}

TEST(DecayScanTile, LeavesTheRestToOthers) {
  const Problem good = make_problem({.T = 5});
  EXPECT_TRUE(kernels::decay_scan_tiled_takes(good.in, good.state));
  Problem p = good;
  p.in.q = p.in.q.to(at::kBFloat16);
  EXPECT_FALSE(kernels::decay_scan_tiled_takes(p.in, p.state)) << "mixed types";
  for (const scan_cases::Variant& variant : scan_cases::variants())
    if (variant.terms.decay != DecayForm::PerHead) {
      p = make_problem({.variant = variant, .T = 5});
      EXPECT_FALSE(kernels::decay_scan_tiled_takes(p.in, p.state)) << name_of(variant);
    }
  p = make_problem({.T = 5, .type = at::kDouble});
  EXPECT_FALSE(kernels::decay_scan_tiled_takes(p.in, p.state)) << "f64";
}

}  // namespace
}  // namespace stuffed
