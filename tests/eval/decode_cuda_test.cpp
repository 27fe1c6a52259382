// The decode session on a GPU: every family's step is recorded, replaying it gives what forward
// calls give, and what cannot be recorded still gives the right numbers.
#include <array>
#include <chrono>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/eval/decode.h"
#include "stuffed/eval/generate.h"
#include "stuffed/models/one_token.h"
#include "support/golden.h"

#if STUFFED_WITH_CUDA

namespace stuffed {
namespace {

using eval::DecodeOptions;
using eval::DecodeSession;
using testing::bitwise_equal;
using testing::close;
using testing::Golden;
using testing::golden_path;
using testing::relative_rms;

const std::array kLayouts = {"mamba2-hf", "mamba1-hf", "hgrn2-fla",
                             "rwkv5-pth", "rwkv6-hf",  "rwkv7-pth"};
constexpr std::array kStepTypes = {at::kFloat, at::kBFloat16};

double step_bound(at::ScalarType type) {
  return type == at::kFloat ? 1e-5 : 5e-3;
}

std::unique_ptr<RecurrentLM> on_gpu(const std::string& layout, at::ScalarType dtype) {
  return load_model(golden_path(layout), {.dtype = dtype, .device = at::Device("cuda:0")});
}

/// Three sequences of 20 tokens, [3,20].
Tensor prompts_of(const std::string& layout) {
  return Golden(layout).get("tokens").to(at::kLong).narrow(1, 0, 60).view({3, 20}).to(at::kCUDA);
}

/// Whether our kernels take what this model's layers ask for.
bool kernels_take(const RecurrentLM& model) {
  bool takes = true;
  Watch watch([&](Where, const ScanInputs& in, const LayerState&) {
    takes = takes && kernels::decay_scan_cuda_takes(in);
  });
  feed_one_token(model, *build_recurrence({.mitigations = {}, .observer = &watch}));
  return takes;
}

struct Trace {
  std::vector<Tensor> hidden;  // of every step
  State state;
};

Trace forward_calls(const RecurrentLM& model,
                    const Recurrence& rule,
                    State state,
                    const Tensor& tokens,
                    int64_t per_step) {
  Trace trace;
  for (int64_t t = 0; t + per_step <= tokens.size(1); t += per_step)
    trace.hidden.push_back(model.forward(tokens.narrow(1, t, per_step), state, rule).hidden);
  trace.state = state;
  return trace;
}

Trace session_steps(DecodeSession& session, const State& state, const Tensor& tokens) {
  Trace trace;
  session.load(state);
  const int64_t per_step = session.tokens_per_step();
  for (int64_t t = 0; t + per_step <= tokens.size(1); t += per_step) {
    session.step(tokens.narrow(1, t, per_step));
    trace.hidden.push_back(session.hidden().clone());
  }
  trace.state = session.state();
  return trace;
}

bool same_bits(const Trace& a, const Trace& b) {
  for (size_t i = 0; i < a.hidden.size(); ++i)
    if (!bitwise_equal(a.hidden[i], b.hidden[i]))
      return false;
  for (size_t i = 0; i < a.state.layers.size(); ++i)
    if (!bitwise_equal(a.state.layers[i].recurrent, b.state.layers[i].recurrent))
      return false;
  return true;
}

void expect_close_steps(const Trace& actual,
                        const Trace& expected,
                        double bound,
                        const std::string& what) {
  ASSERT_EQ(actual.hidden.size(), expected.hidden.size());
  for (size_t i = 0; i < actual.hidden.size(); ++i)
    EXPECT_TRUE(close(actual.hidden[i], expected.hidden[i], bound)) << what << ", step " << i;
  EXPECT_EQ(actual.state.position, expected.state.position) << what;
  for (size_t i = 0; i < actual.state.layers.size(); ++i) {
    const LayerState &a = actual.state.layers[i], &e = expected.state.layers[i];
    EXPECT_TRUE(close(a.recurrent, e.recurrent, bound)) << what << ", layer " << i;
    if (e.conv.defined()) {
      EXPECT_TRUE(close(a.conv, e.conv, bound)) << what << ", layer " << i;
    }
    if (e.shift.defined()) {
      EXPECT_TRUE(close(a.shift, e.shift, bound)) << what << ", layer " << i;
    }
  }
}

TEST(CudaDecode, RecordedStepsAreForwardCalls) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts)
    for (const at::ScalarType dtype : kStepTypes) {
      const auto model = on_gpu(layout, dtype);
      const Tensor prompts = prompts_of(layout);
      State start = model->initial_state(3);
      model->forward(prompts, start);
      for (const int64_t per_step : {1, 3, 10}) {
        const std::string what = fmt::format("{} {} x{}", layout, toString(dtype), per_step);
        DecodeSession session(*model, plain_scan(), {.batch = 3, .tokens_per_step = per_step});
        if (kernels_take(*model)) {
          EXPECT_EQ(session.why_no_graph(), "") << what;
        }
        const Trace expected = forward_calls(*model, plain_scan(), start, prompts, per_step);
        const Trace first = session_steps(session, start, prompts);
        const Trace again = session_steps(session, start, prompts);
        expect_close_steps(first, expected, step_bound(dtype), what);
        EXPECT_TRUE(same_bits(again, first)) << what << ": a second load gives other bits";
        fmt::print("{}: graph {}, {} as forward calls\n", what,
                   session.why_no_graph().empty() ? "yes" : "no",
                   same_bits(first, expected) ? "the same bits" : "not the same bits");
      }
    }
}

TEST(CudaDecode, GreedyMatchesUpstream) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = on_gpu(layout, at::kFloat);
    const Golden golden(layout);
    const Tensor tokens = golden.get("tokens").to(at::kLong).to(at::kCUDA);
    const Tensor expected = golden.get("greedy").to(at::kLong).view(-1);
    State state = model->initial_state(1);
    const Tensor hidden = model->forward(tokens, state).hidden;
    DecodeSession session(*model, plain_scan(), {});
    session.load(state, hidden.select(1, hidden.size(1) - 1));
    EXPECT_TRUE(at::equal(session.greedy(8).view(-1), expected)) << layout;
    EXPECT_EQ(session.position(), tokens.size(1) + 8);

    SavedState saved{.state = model->initial_state(1), .last_hidden = {}};
    const Tensor ids = golden.get("tokens").to(at::kInt).contiguous();
    eval::feed_prompt(*model, plain_scan(),
                      {ids.const_data_ptr<int32_t>(), static_cast<size_t>(ids.numel())}, 64, saved);
    const auto made = eval::generate(*model, plain_scan(), nullptr, {.max_new_tokens = 8}, saved);
    EXPECT_TRUE(at::equal(at::tensor(made.new_tokens), expected)) << layout;
    EXPECT_TRUE(close(saved.last_hidden, session.last_hidden(), 1e-4)) << layout;
  }
}

TEST(CudaDecode, GenerateGivesTheSameTextWithAndWithoutLookingAtEveryToken) {
  at::NoGradGuard no_grad;
  const auto model = on_gpu("mamba2-hf", at::kFloat);
  const std::vector<int32_t> prompt{1, 2, 3, 4, 5};
  std::vector<std::vector<int64_t>> texts;
  for (const bool looks : {false, true}) {
    SavedState saved{.state = model->initial_state(1), .last_hidden = {}};
    eval::feed_prompt(*model, plain_scan(), prompt, 64, saved);
    const eval::GenerateOptions options = {.max_new_tokens = 37, .stop_eos = looks};
    texts.push_back(eval::generate(*model, plain_scan(), nullptr, options, saved).new_tokens);
    EXPECT_EQ(saved.state.position, 42);
  }
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0].size(), 37u);
}

TEST(CudaDecode, SharesNoTensorWithTheCaller) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = on_gpu(layout, at::kFloat);
    State state = model->initial_state(3);
    const Tensor hidden = model->forward(prompts_of(layout), state).hidden.select(1, 19).clone();
    const Tensor before = state.layers[1].recurrent.clone();
    DecodeSession session(*model, plain_scan(), {.batch = 3});
    session.load(state, hidden);
    const Tensor ids = session.greedy(4);
    EXPECT_TRUE(bitwise_equal(state.layers[1].recurrent, before)) << layout;
    session.load(state, hidden);
    const State out = session.state();
    for (const State* theirs : std::initializer_list<const State*>{&state, &out})
      for (const LayerState& layer : theirs->layers)
        layer.recurrent.fill_(7);
    hidden.fill_(7);
    EXPECT_TRUE(at::equal(session.greedy(4), ids)) << layout;
  }
}

/// Waits for the GPU in the middle of a step, which cannot be recorded.
struct Waiting : Recurrence {
  Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const override {
    const Tensor y = plain_scan().advance(where, in, layer);
    total += y.to(at::kFloat).abs().sum().item<double>();
    return y;
  }
  std::string replay_obstacle() const override { return ""; }
  mutable double total = 0;
};

TEST(CudaDecode, AFailedRecordingFallsBackAndSaysWhy) {
  at::NoGradGuard no_grad;
  const auto model = on_gpu("mamba2-hf", at::kFloat);
  const Tensor prompts = prompts_of("mamba2-hf");
  State start = model->initial_state(3);
  model->forward(prompts, start);
  const Waiting rule;
  for (int round = 0; round < 2; ++round) {
    DecodeSession session(*model, rule, {.batch = 3});
    EXPECT_NE(session.why_no_graph().find("recording a step failed"), std::string::npos)
        << session.why_no_graph();
    fmt::print("why: {}\n", session.why_no_graph());
    expect_close_steps(session_steps(session, start, prompts),
                       forward_calls(*model, plain_scan(), start, prompts, 1), 1e-5, "fallen back");
  }
  // The device goes on as if nothing had happened, and records what can be.
  DecodeSession session(*model, plain_scan(), {.batch = 3});
  EXPECT_EQ(session.why_no_graph(), "");
  expect_close_steps(session_steps(session, start, prompts),
                     forward_calls(*model, plain_scan(), start, prompts, 1), 1e-5,
                     "recorded after");
}

TEST(CudaDecode, MitigationsAreForwardCalls) {
  at::NoGradGuard no_grad;
  const auto model = on_gpu("mamba2-hf", at::kFloat);
  const Tensor prompts = prompts_of("mamba2-hf");
  for (const auto& [mitigation, is_recorded] :
       {std::pair{"scale_gates:decay=0.99,insert=0.5", true},
        {"clip_insert:max=0.1", true},
        {"sliding_window:tokens=7", false}}) {
    const auto rule = build_recurrence({.mitigations = {mitigation}});
    State start = model->initial_state(3);
    model->forward(prompts, start, *rule);
    DecodeSession session(*model, *rule, {.batch = 3});
    EXPECT_EQ(session.why_no_graph().empty(), is_recorded) << session.why_no_graph();
    expect_close_steps(session_steps(session, start, prompts),
                       forward_calls(*model, *rule, start, prompts, 1), 1e-5, mitigation);
  }
}

TEST(CudaDecode, PrintsTheTimeOfAStep) {
  at::NoGradGuard no_grad;
  constexpr int64_t kSteps = 200;
  for (const std::string layout : kLayouts) {
    const auto model = on_gpu(layout, at::kBFloat16);
    for (const bool wants_graph : {false, true}) {
      DecodeSession session(*model, plain_scan(), {.wants_graph = wants_graph});
      session.load(model->initial_state(1),
                   at::zeros({1, model->config().d_model},
                             at::TensorOptions(at::kCUDA).dtype(at::kBFloat16)));
      session.greedy(5);
      const auto begin = std::chrono::steady_clock::now();
      const Tensor ids = session.greedy(kSteps);
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      EXPECT_EQ(ids.size(1), kSteps);
      fmt::print("{} (2 layers, D=64), {}: {:.1f} us a greedy step\n", layout,
                 wants_graph ? "graph" : "plain", seconds.count() / kSteps * 1e6);
    }
  }
}

}  // namespace
}  // namespace stuffed

#endif
