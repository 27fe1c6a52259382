#include "stuffed/recurrence/state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "stuffed/core/error.h"
#include "stuffed/recurrence/recurrence.h"
#include "tests/support/scan_variants.h"

namespace stuffed {
namespace {

using testing::bitwise_equal;

State some_state(int64_t batch, uint64_t seed = 1) {
  at::manual_seed(seed);
  LayerState layer{at::randn({batch, 2, 16, 8}), at::randn({batch, 5, 3}), {}, {}};
  layer.extra["window.k"] = at::randn({batch, 4});
  return {.position = 7, .layers = {layer, layer}};
}

TEST(State, ForksCostNoMemory) {
  const State state = some_state(1), forks = state.fork(3);
  ASSERT_EQ(forks.layers.size(), 2u);
  EXPECT_EQ(forks.position, 7);
  EXPECT_EQ(forks.layers[0].recurrent.size(0), 3);
  EXPECT_EQ(forks.layers[0].recurrent.data_ptr(), state.layers[0].recurrent.data_ptr());
  EXPECT_EQ(forks.layers[1].extra.at("window.k").size(0), 3);
  EXPECT_FALSE(forks.layers[0].shift.defined());
  EXPECT_THROW(some_state(2).fork(2), Error);
}

TEST(State, SelectAndConcatUndoEachOther) {
  const State state = some_state(3);
  const State again = State::concat({state.select({0}), state.select({1, 2})});
  for (size_t i = 0; i < state.layers.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(again.layers[i].recurrent, state.layers[i].recurrent));
    EXPECT_TRUE(bitwise_equal(again.layers[i].conv, state.layers[i].conv));
    EXPECT_TRUE(
        bitwise_equal(again.layers[i].extra.at("window.k"), state.layers[i].extra.at("window.k")));
  }
  const State twice = state.select({2, 2, 0});
  EXPECT_TRUE(bitwise_equal(twice.layers[0].recurrent[1], state.layers[0].recurrent[2]));
}

TEST(State, ConcatRefusesDifferentPositionsAndSlots) {
  State moved = some_state(1), bare = some_state(1);
  moved.position = 8;
  bare.layers[1].extra.clear();
  EXPECT_THROW(State::concat({some_state(1), moved}), Error);
  EXPECT_THROW(State::concat({some_state(1), bare}), Error);
  EXPECT_THROW(State::concat({}), Error);
}

TEST(State, BytesCountEveryTensor) {
  EXPECT_EQ(some_state(2).bytes(), 2 * 2 * 4 * (2 * 16 * 8 + 5 * 3 + 4));
}

struct Counting : Observer {
  void on_update(Where where, const ScanInputs& in, const LayerState& after) override {
    calls += 1;
    last = where;
    tokens = in.q.size(1);
    state = after.recurrent;
  }
  int calls = 0;
  Where last{};
  int64_t tokens = 0;
  Tensor state;
};

TEST(Recurrence, AdvancingACopyLeavesTheOriginalsBytes) {
  for (const scan_cases::Variant& variant : scan_cases::variants()) {
    const scan_cases::Problem p = scan_cases::make_problem({.variant = variant, .T = 70});
    const Tensor bytes = p.state.clone();
    LayerState original{p.state, {}, {}, {}};
    LayerState copy = original;
    plain_scan().advance({0, 0}, p.in, copy);
    EXPECT_TRUE(bitwise_equal(original.recurrent, bytes));
    EXPECT_FALSE(at::equal(copy.recurrent, bytes));
  }
}

TEST(Recurrence, AForkAdvancesLikeItsOriginal) {
  const scan_cases::Problem p =
      scan_cases::make_problem({.variant = scan_cases::variant_of("rwkv6"), .T = 33});
  State state{.position = 0, .layers = {LayerState{p.state, {}, {}, {}}}};
  State fork = state.fork(2);
  ScanInputs twice = p.in;
  for (Tensor* x : {&twice.q, &twice.k, &twice.v, &twice.log_decay})
    *x = x->expand({2, -1, -1, -1});
  const Tensor y = plain_scan().advance({0, 0}, p.in, state.layers[0]);
  const Tensor y_fork = plain_scan().advance({0, 0}, twice, fork.layers[0]);
  for (const int64_t b : {0, 1})
    EXPECT_TRUE(testing::close(y_fork[b], y[0], 1e-6));
}

TEST(Recurrence, AnObserverChangesNoBit) {
  Counting observer;
  const auto observed = build_recurrence(
      {.mitigations = {}, .impl = Impl::Auto, .state_dtype = at::kFloat, .observer = &observer});
  const scan_cases::Problem p = scan_cases::make_problem({.T = 70});
  LayerState plain{p.state, {}, {}, {}}, seen{p.state, {}, {}, {}};
  const Tensor expected = plain_scan().advance({3, 500}, p.in, plain);
  EXPECT_TRUE(bitwise_equal(observed->advance({3, 500}, p.in, seen), expected));
  EXPECT_TRUE(bitwise_equal(seen.recurrent, plain.recurrent));
  EXPECT_EQ(observer.calls, 1);
  EXPECT_EQ(observer.last.layer, 3);
  EXPECT_EQ(observer.last.position, 500);
  EXPECT_EQ(observer.tokens, 70);
  EXPECT_TRUE(bitwise_equal(observer.state, plain.recurrent));
}

TEST(Recurrence, ABf16StateIsRoundedAfterEverySegment) {
  const auto rule = build_recurrence(
      {.mitigations = {}, .impl = Impl::Auto, .state_dtype = at::kBFloat16, .observer = nullptr});
  const scan_cases::Problem p = scan_cases::make_problem({.T = 9});
  LayerState plain{p.state, {}, {}, {}}, rounded{p.state, {}, {}, {}};
  const Tensor y = plain_scan().advance({0, 0}, p.in, plain);
  EXPECT_TRUE(bitwise_equal(rule->advance({0, 0}, p.in, rounded), y));
  EXPECT_TRUE(bitwise_equal(rounded.recurrent, plain.recurrent.to(at::kBFloat16).to(at::kFloat)));
}

TEST(Recurrence, RefusesUnknownMitigations) {
  for (const char* text : {"no_such_thing", "no_such_thing:a=1", ""})
    try {
      build_recurrence({.mitigations = {text},
                        .impl = Impl::Auto,
                        .state_dtype = at::kFloat,
                        .observer = nullptr});
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Usage);
    }
}

}  // namespace
}  // namespace stuffed
