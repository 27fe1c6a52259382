#include "stuffed/eval/decode.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>

#include "decode_graph.h"
#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr auto kBug = Error::Kind::Internal;

Tensor copy_of(const Tensor& x) {
  return x.defined() ? x.clone(at::MemoryFormat::Contiguous) : x;
}

LayerState copy_of(const LayerState& layer) {
  LayerState copy{copy_of(layer.recurrent), copy_of(layer.conv), copy_of(layer.shift), {}};
  for (const auto& [slot, tensor] : layer.extra)
    copy.extra[slot] = copy_of(tensor);
  return copy;
}

/// Writes `from` where `to` lies, and `to` stays there. Nothing to do if it is the same memory.
void overwrite(const Tensor& to, const Tensor& from) {
  if (to.defined() && !from.is_same(to))
    to.copy_(from);
}

void overwrite(const LayerState& to, const LayerState& from) {
  overwrite(to.recurrent, from.recurrent);
  overwrite(to.conv, from.conv);
  overwrite(to.shift, from.shift);
}

}  // namespace

struct DecodeSession::Graphs {
  std::unique_ptr<DecodeGraph> step;  // tokens_, state_ -> hidden_, state_
  std::unique_ptr<DecodeGraph> head;  // last_ -> logits_, choice_
};

DecodeSession::DecodeSession(const RecurrentLM& model,
                             const Recurrence& rule,
                             const DecodeOptions& options)
    : model_(model), rule_(rule), options_(options) {
  check(options.batch > 0 && options.tokens_per_step > 0, kBug,
        "DecodeSession: a batch of {} with {} tokens per step", options.batch,
        options.tokens_per_step);
  why_no_graph_ = !options.wants_graph        ? "none was asked for"
                  : !model.device().is_cuda() ? "the model is on the CPU"
                                              : rule.replay_obstacle();
  if (why_no_graph_.empty())
    record();
}

DecodeSession::~DecodeSession() = default;

void DecodeSession::record() {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions().device(model_.device());
  const int64_t B = options_.batch, T = options_.tokens_per_step;
  state_ = model_.initial_state(B);
  for (LayerState& layer : state_.layers)
    layer.is_private = true;
  tokens_ = at::zeros({B, T}, options.dtype(at::kLong));
  hidden_ = at::zeros({B, T, model_.config().d_model}, options.dtype(model_.dtype()));
  last_ = hidden_.select(1, T - 1);
  logits_ = at::zeros({B, model_.head().vocab}, options.dtype(at::kFloat));
  choice_ = at::zeros({B}, options.dtype(at::kLong));

  auto graphs = std::make_unique<Graphs>();
  graphs->step = record_graph(
      model_.device(), [this] { run_step(); }, why_no_graph_);
  if (graphs->step)
    graphs->head = record_graph(
        model_.device(), [this] { run_head(); }, why_no_graph_);
  if (graphs->head) {
    graphs_ = std::move(graphs);
    return;
  }
  state_ = {};
  tokens_ = hidden_ = last_ = logits_ = choice_ = Tensor();
}

/// The step as it is recorded: reads and writes nothing but the session's own buffers.
void DecodeSession::run_step() {
  State next = state_;
  const Tensor hidden = model_.forward(tokens_, next, rule_).hidden;
  check(hidden.scalar_type() == hidden_.scalar_type(), kBug, "DecodeSession: hidden rows are {}",
        at::toString(hidden.scalar_type()));
  hidden_.copy_(hidden);
  for (size_t i = 0; i < state_.layers.size(); ++i) {
    check(next.layers[i].extra.empty(), kBug, "DecodeSession: layer {} has slots of a mitigation",
          i);
    overwrite(state_.layers[i], next.layers[i]);
  }
}

void DecodeSession::run_head() {
  const LmHead& head = model_.head();
  const Tensor logits = ops::linear(last_, head.linear).narrow(-1, 0, head.vocab).to(at::kFloat);
  const Tensor choice = logits.argmax(-1);
  if (why_no_graph_.empty()) {  // being recorded
    logits_.copy_(logits);
    choice_.copy_(choice);
  } else {
    logits_ = logits;
    choice_ = choice;
  }
}

void DecodeSession::load(const State& state, const Tensor& last_hidden) {
  const at::NoGradGuard no_grad;
  const auto fits = [&](const Tensor& x) { return x.size(0) == options_.batch; };
  check(int64_t(state.layers.size()) == model_.config().layers &&
            fits(state.layers.front().recurrent) && (!last_hidden.defined() || fits(last_hidden)),
        kBug, "DecodeSession: a state of {} layers was loaded into one of {} with a batch of {}",
        state.layers.size(), model_.config().layers, options_.batch);
  is_loaded_ = true;
  has_hidden_ = last_hidden.defined();
  if (graphs_) {
    state_.position = state.position;
    for (size_t i = 0; i < state_.layers.size(); ++i) {
      check(state.layers[i].extra.empty(), kBug,
            "DecodeSession: layer {} has slots of a mitigation", i);
      overwrite(state_.layers[i], state.layers[i]);
    }
    if (has_hidden_)
      last_.copy_(last_hidden);
    return;
  }
  const bool may_overwrite = rule_.replay_obstacle().empty();
  state_ = {state.position, {}};
  for (const LayerState& layer : state.layers) {
    state_.layers.push_back(copy_of(layer));
    state_.layers.back().is_private = may_overwrite;
  }
  last_ = copy_of(last_hidden);
}

void DecodeSession::step(const Tensor& tokens) {
  const at::NoGradGuard no_grad;
  check(tokens.dim() == 2 && tokens.size(0) == options_.batch &&
            tokens.size(1) == options_.tokens_per_step,
        kBug, "DecodeSession: tokens are [{}], expected [{},{}]", fmt::join(tokens.sizes(), ","),
        options_.batch, options_.tokens_per_step);
  if (graphs_)
    tokens_.copy_(tokens);
  else
    tokens_ = tokens.to(model_.device());
  advance();
}

/// Feeds tokens_.
void DecodeSession::advance() {
  check(is_loaded_, kBug, "DecodeSession: a step before load()");
  if (graphs_) {
    graphs_->step->replay();
    state_.position += options_.tokens_per_step;
  } else {
    // Nothing is differentiated, and a step on the CPU is so many views and small operators that
    // even passing by autograd's keys costs as much as some of the matrices.
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    hidden_ = model_.forward(tokens_, state_, rule_).hidden;
    last_ = hidden_.select(1, options_.tokens_per_step - 1);
  }
  has_hidden_ = true;
}

void DecodeSession::choose() {
  const at::NoGradGuard no_grad;
  check(has_hidden_, kBug, "DecodeSession: nothing was fed, so nothing predicts the next token");
  if (graphs_)
    graphs_->head->replay();
  else
    run_head();
}

const Tensor& DecodeSession::logits() {
  choose();
  return logits_;
}

const Tensor& DecodeSession::likeliest() {
  choose();
  return choice_;
}

Tensor DecodeSession::greedy(int64_t count) {
  const at::NoGradGuard no_grad;
  check(options_.tokens_per_step == 1, kBug, "DecodeSession: greedy steps take one token, not {}",
        options_.tokens_per_step);
  const Tensor ids =
      at::empty({options_.batch, count}, at::TensorOptions(at::kLong).device(model_.device()));
  for (int64_t i = 0; i < count; ++i) {
    choose();
    ids.select(1, i).copy_(choice_);
    step(choice_.unsqueeze(1));
  }
  return ids.to(at::kCPU);
}

Tensor DecodeSession::last_hidden() const {
  return has_hidden_ ? copy_of(last_) : Tensor();
}

State DecodeSession::state() const {
  check(is_loaded_, kBug, "DecodeSession: state() before load()");
  State state{state_.position, {}};
  for (const LayerState& layer : state_.layers)
    state.layers.push_back(copy_of(layer));
  return state;
}

}  // namespace stuffed::eval
