// The decode session against plain forward calls: the same bits, and no tensor in common.
#include "stuffed/eval/decode.h"

#include <array>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "support/golden.h"

namespace stuffed {
namespace {

using eval::DecodeSession;
using testing::bitwise_equal;
using testing::Golden;
using testing::golden_path;

const std::array kLayouts = {"mamba2-hf", "mamba1-hf", "hgrn2-fla",
                             "rwkv5-pth", "rwkv6-hf",  "rwkv7-pth"};

/// Three sequences of 20 tokens, [3,20].
Tensor prompts_of(const std::string& layout) {
  return Golden(layout).get("tokens").to(at::kLong).narrow(1, 0, 60).view({3, 20});
}

void expect_same_state(const State& actual, const State& expected, const std::string& what) {
  EXPECT_EQ(actual.position, expected.position) << what;
  ASSERT_EQ(actual.layers.size(), expected.layers.size());
  for (size_t i = 0; i < actual.layers.size(); ++i) {
    const LayerState &a = actual.layers[i], &e = expected.layers[i];
    EXPECT_TRUE(bitwise_equal(a.recurrent, e.recurrent)) << what << ", layer " << i;
    for (const auto& [ours, theirs] : {std::pair{a.conv, e.conv}, {a.shift, e.shift}}) {
      ASSERT_EQ(ours.defined(), theirs.defined());
      if (ours.defined()) {
        EXPECT_TRUE(bitwise_equal(ours, theirs)) << what << ", layer " << i;
      }
    }
    ASSERT_EQ(a.extra.size(), e.extra.size());
    for (const auto& [slot, tensor] : a.extra)
      EXPECT_TRUE(bitwise_equal(tensor, e.extra.at(slot))) << what << ", " << slot;
  }
}

/// Every tensor of a state.
std::vector<Tensor> state_tensors(const State& state) {
  std::vector<Tensor> tensors;
  for (const LayerState& layer : state.layers) {
    for (const Tensor* tensor : {&layer.recurrent, &layer.conv, &layer.shift})
      if (tensor->defined())
        tensors.push_back(*tensor);
    for (const auto& [slot, tensor] : layer.extra)
      tensors.push_back(tensor);
  }
  return tensors;
}

std::vector<Tensor> clones_of(const State& state) {
  std::vector<Tensor> clones;
  for (const Tensor& tensor : state_tensors(state))
    clones.push_back(tensor.clone());
  return clones;
}

/// Steps of a session and the same forward calls, side by side.
void expect_forward(const RecurrentLM& model,
                    const Recurrence& rule,
                    const Tensor& prompts,
                    int64_t per_step,
                    const std::string& what) {
  State state = model.initial_state(prompts.size(0));
  model.forward(prompts, state, rule);
  DecodeSession session(model, rule, {.batch = prompts.size(0), .tokens_per_step = per_step});
  session.load(state);
  for (int64_t begin = 0; begin + per_step <= prompts.size(1); begin += per_step) {
    const Tensor tokens = prompts.narrow(1, begin, per_step);
    const Tensor expected = model.forward(tokens, state, rule).hidden;
    session.step(tokens);
    EXPECT_TRUE(bitwise_equal(session.hidden(), expected)) << what << " at " << begin;
    EXPECT_TRUE(bitwise_equal(session.last_hidden(), expected.select(1, per_step - 1))) << what;
  }
  EXPECT_EQ(session.position(), state.position);
  expect_same_state(session.state(), state, what);
}

TEST(Decode, StepsAreForwardCallsBitForBit) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts)
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto model = load_model(golden_path(layout), {.dtype = dtype});
      for (const int64_t per_step : {1, 3})
        expect_forward(*model, plain_scan(), prompts_of(layout), per_step,
                       fmt::format("{} {} x{}", layout, toString(dtype), per_step));
    }
}

TEST(Decode, MitigationsAreForwardCallsBitForBit) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path("mamba2-hf"));
  for (const char* mitigation :
       {"scale_gates:decay=0.99,insert=0.5", "clip_insert:max=0.1", "sliding_window:tokens=7"})
    expect_forward(*model, *build_recurrence({.mitigations = {mitigation}}),
                   prompts_of("mamba2-hf"), 1, mitigation);
  expect_forward(*model, *build_recurrence({.mitigations = {}, .state_dtype = at::kBFloat16}),
                 prompts_of("mamba2-hf"), 1, "bf16 state");
}

TEST(Decode, GreedyMatchesUpstream) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const Golden golden(layout);
    const auto model = load_model(golden_path(layout));
    State state = model->initial_state(1);
    const Tensor tokens = golden.get("tokens").to(at::kLong);
    const Tensor hidden = model->forward(tokens, state).hidden;
    DecodeSession session(*model, plain_scan(), {});
    session.load(state, hidden.select(1, hidden.size(1) - 1));
    EXPECT_TRUE(at::equal(session.greedy(8).view(-1), golden.get("greedy").to(at::kLong).view(-1)))
        << layout;
    EXPECT_EQ(session.position(), tokens.size(1) + 8);
    EXPECT_EQ(session.logits().sizes(), (std::vector<int64_t>{1, model->config().vocab}));
    EXPECT_EQ(session.likeliest().item<int64_t>(), session.logits().argmax().item<int64_t>());
  }
}

TEST(Decode, SharesNoTensorWithTheCaller) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = load_model(golden_path(layout));
    const Tensor prompts = prompts_of(layout);
    State state = model->initial_state(3);
    const Tensor hidden = model->forward(prompts, state).hidden.select(1, 19).clone();
    DecodeSession session(*model, plain_scan(), {.batch = 3});
    session.load(state, hidden);
    const std::vector<Tensor> before = clones_of(state);
    const Tensor ids = session.greedy(4);
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(bitwise_equal(state_tensors(state)[i], before[i])) << layout;

    session.load(state, hidden);
    State out = session.state();
    for (const State& theirs : {state, out})
      for (Tensor& tensor : state_tensors(theirs))
        tensor.fill_(7);
    hidden.fill_(7);
    EXPECT_TRUE(at::equal(session.greedy(4), ids)) << layout;
  }
}

TEST(Decode, ForkedStatesGoTheirOwnWays) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path("mamba2-hf"));
  const Tensor prompts = prompts_of("mamba2-hf");
  State state = model->initial_state(1);
  model->forward(prompts.narrow(0, 0, 1), state);
  DecodeSession session(*model, plain_scan(), {.batch = 3});
  session.load(state.fork(3));
  for (int64_t t = 0; t < 5; ++t)
    session.step(prompts.narrow(1, t, 1));
  const State all = session.state();
  for (int64_t row = 0; row < 3; ++row) {
    State alone = state;
    for (int64_t t = 0; t < 5; ++t)
      model->forward(prompts.narrow(0, row, 1).narrow(1, t, 1), alone);
    EXPECT_TRUE(
        testing::close(all.select({row}).layers[1].recurrent, alone.layers[1].recurrent, 1e-6))
        << row;
  }
}

TEST(Decode, SaysWhyThereIsNoGraph) {
  const auto model = load_model(golden_path("mamba2-hf"));
  EXPECT_EQ(DecodeSession(*model, plain_scan(), {}).why_no_graph(), "the model is on the CPU");
  EXPECT_EQ(DecodeSession(*model, plain_scan(), {.wants_graph = false}).why_no_graph(),
            "none was asked for");
}

/// A rule that says nothing of its steps must not be recorded.
struct Unknown : Recurrence {
  Tensor advance(Where, const ScanInputs& in, LayerState&) const override { return in.v; }
};
struct Watcher : Observer {
  void on_update(Where, const ScanInputs&, const LayerState&) override {}
};

TEST(Decode, OnlyRulesWhoseStepsAreAlikeAreReplayed) {
  const auto why = [](const RecurrenceOptions& options) {
    return build_recurrence(options)->replay_obstacle();
  };
  EXPECT_EQ(plain_scan().replay_obstacle(), "");
  EXPECT_EQ(why({.mitigations = {"scale_gates:decay=0.9", "clip_insert:max=4"}}), "");
  EXPECT_NE(why({.mitigations = {"clip_insert:max=4", "sliding_window:tokens=8"}}), "");
  EXPECT_NE(why({.mitigations = {"clamp_norm:limits=x"},
                 .read_limits =
                     [](const std::string&) {
                       return at::ones({2, 2});
                     }}),
            "");
  Watcher watcher;
  EXPECT_NE(why({.mitigations = {}, .observer = &watcher}), "");
  EXPECT_NE(Unknown().replay_obstacle(), "");
}

TEST(Decode, RefusesOtherShapes) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path("mamba2-hf"));
  DecodeSession session(*model, plain_scan(), {.batch = 2});
  EXPECT_THROW(session.step(at::zeros({2, 1}, at::kLong)), Error);  // nothing is loaded
  EXPECT_THROW(session.load(model->initial_state(3)), Error);
  session.load(model->initial_state(2));
  EXPECT_THROW(session.greedy(1), Error);  // nothing predicts a token
  EXPECT_THROW(session.step(at::zeros({2, 2}, at::kLong)), Error);
  session.step(at::zeros({2, 1}, at::kLong));
  EXPECT_EQ(session.greedy(2).sizes(), (std::vector<int64_t>{2, 2}));
}

}  // namespace
}  // namespace stuffed
