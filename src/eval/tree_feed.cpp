// Feeds a prompt tree by its plan, holding exactly the states the plan counts on.
#include <algorithm>
#include <ranges>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/eval/prompt_tree.h"

namespace stuffed::eval {

namespace {

/// States of nodes whose children are still to be fed, as they were computed together.
struct Batch {
  int64_t serial;  // batches are joined in the order they were made, so that runs repeat
  State state;
  std::vector<int32_t> nodes;  // the rows
};
using BatchPointer = std::shared_ptr<Batch>;

/// Rows of the batch a step starts from, and those that stay.
struct Source {
  BatchPointer batch;
  std::vector<int64_t> rows, kept;
};

/// Rows of one layer's state. Costs nothing if they are all rows, or copies of the only one.
LayerState rows_of(const LayerState& layer, const std::vector<int64_t>& rows, int64_t batch) {
  if (rows.empty())
    return {};
  if (std::ranges::equal(rows, std::views::iota(int64_t{0}, batch)))
    return layer;
  const State one{0, {layer}};
  return (batch == 1 ? one.fork(int64_t(rows.size())) : one.select(rows)).layers.front();
}

class Feeder {
 public:
  Feeder(const RecurrentLM& model,
         const Recurrence& rule,
         const PromptTree& tree,
         int64_t segment_tokens)
      : model_(model),
        rule_(rule),
        tree_(tree),
        segment_tokens_(segment_tokens),
        pending_(tree.nodes().size(), 0),
        home_(tree.nodes().size()),
        prompts_(tree.nodes().size()) {
    for (size_t prompt = 0; prompt < tree.ends().size(); ++prompt)
      prompts_[size_t(tree.ends()[prompt])].push_back(int32_t(prompt));
  }

  TreeCount run(const TreePlan& plan,
                const std::function<bool(int32_t)>& wanted,
                const std::function<void(Leaves)>& on_leaves) {
    const std::vector<bool> needed = needed_steps(plan, wanted);
    if (pending_[PromptTree::kRoot] > 0)
      hold(model_.initial_state(1), {PromptTree::kRoot});
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      if (!needed[i])
        continue;
      stop_if_interrupted();
      feed(plan.steps[i], on_leaves);
    }
    return count_;
  }

 private:
  const TreeNode& node(int32_t id) const { return tree_.nodes()[size_t(id)]; }

  /// Marks the steps that a wanted prompt depends on, and counts each node's children in them.
  std::vector<bool> needed_steps(const TreePlan& plan, const std::function<bool(int32_t)>& wanted) {
    std::vector<bool> needed(plan.steps.size(), false);
    for (size_t i = plan.steps.size(); i-- > 0;) {
      const auto& step = plan.steps[i];
      needed[i] = std::ranges::any_of(step, [&](int32_t id) {
        return pending_[size_t(id)] > 0 || std::ranges::any_of(prompts_[size_t(id)], wanted);
      });
      if (needed[i])
        for (const int32_t id : step)
          ++pending_[size_t(node(id).parent)];
    }
    return needed;
  }

  void hold(State state, std::vector<int32_t> nodes) {
    live_ += int64_t(nodes.size());
    const auto batch =
        std::make_shared<Batch>(Batch{++batches_, std::move(state), std::move(nodes)});
    for (const int32_t id : batch->nodes)
      home_[size_t(id)] = batch;
  }

  void note_peak(int64_t more) { count_.peak_states = std::max(count_.peak_states, live_ + more); }

  void feed(std::vector<int32_t> step, const std::function<void(Leaves)>& on_leaves);
  std::vector<Source> sources_of(const std::vector<int32_t>& step);
  State start(const std::vector<int32_t>& step);
  Tensor advance(const std::vector<int32_t>& step, State& state);
  void answer(const std::vector<int32_t>& step,
              State& state,
              const Tensor& hidden,
              bool goes_on,
              const std::function<void(Leaves)>& on_leaves);

  const RecurrentLM& model_;
  const Recurrence& rule_;
  const PromptTree& tree_;
  const int64_t segment_tokens_;
  std::vector<int64_t> pending_;               // children still to be fed, per node
  std::vector<BatchPointer> home_;             // where a node's state is, while it is held
  std::vector<std::vector<int32_t>> prompts_;  // that end at a node
  int64_t batches_ = 0;
  int64_t live_ = 0;  // rows of all batches, and of the step being fed
  TreeCount count_;
};

void Feeder::feed(std::vector<int32_t> step, const std::function<void(Leaves)>& on_leaves) {
  std::ranges::stable_sort(step, {},
                           [&](int32_t id) { return home_[size_t(node(id).parent)]->serial; });
  State state = start(step);
  live_ += int64_t(step.size());
  note_peak(0);
  const Tensor hidden = advance(step, state);

  std::vector<int64_t> kept;
  std::vector<int32_t> nodes;
  for (size_t row = 0; row < step.size(); ++row)
    if (pending_[size_t(step[row])] > 0) {
      kept.push_back(int64_t(row));
      nodes.push_back(step[row]);
    }
  answer(step, state, hidden, !kept.empty(), on_leaves);
  live_ -= int64_t(step.size());
  if (kept.empty())
    return;
  for (LayerState& layer : state.layers)
    layer = rows_of(layer, kept, int64_t(step.size()));
  hold(std::move(state), std::move(nodes));
}

std::vector<Source> Feeder::sources_of(const std::vector<int32_t>& step) {
  std::vector<Source> sources;
  for (const int32_t id : step) {
    const int32_t parent = node(id).parent;
    --pending_[size_t(parent)];
    const BatchPointer& batch = home_[size_t(parent)];
    if (sources.empty() || sources.back().batch != batch)
      sources.push_back({batch, {}, {}});
    sources.back().rows.push_back(std::ranges::find(batch->nodes, parent) - batch->nodes.begin());
  }
  for (Source& source : sources)
    for (size_t row = 0; row < source.batch->nodes.size(); ++row)
      if (pending_[size_t(source.batch->nodes[row])] > 0)
        source.kept.push_back(int64_t(row));
  return sources;
}

/// The states a step starts from. What no other child needs is let go, a layer at a time, so that
/// no state exists twice on the way.
State Feeder::start(const std::vector<int32_t>& step) {
  const std::vector<Source> sources = sources_of(step);
  State state{sources.front().batch->state.position, {}};
  for (size_t layer = 0; layer < sources.front().batch->state.layers.size(); ++layer) {
    std::vector<State> parts;
    for (const Source& source : sources) {
      LayerState& held = source.batch->state.layers[layer];
      const auto batch = int64_t(source.batch->nodes.size());
      parts.push_back({state.position, {rows_of(held, source.rows, batch)}});
      held = rows_of(held, source.kept, batch);
    }
    state.layers.push_back(
        (parts.size() == 1 ? parts.front() : State::concat(parts)).layers.front());
  }
  for (const Source& source : sources) {
    std::vector<int32_t> nodes;
    for (const int64_t row : source.kept)
      nodes.push_back(source.batch->nodes[size_t(row)]);
    live_ -= int64_t(source.batch->nodes.size() - nodes.size());
    for (const int32_t id : source.batch->nodes)
      if (pending_[size_t(id)] == 0)
        home_[size_t(id)].reset();
    source.batch->nodes = std::move(nodes);
  }
  return state;
}

/// Returns the last hidden rows [B,D].
Tensor Feeder::advance(const std::vector<int32_t>& step, State& state) {
  const int64_t begin = node(step.front()).begin, length = node(step.front()).end - begin;
  Tensor tokens = at::empty({int64_t(step.size()), length}, at::kLong);
  for (size_t row = 0; row < step.size(); ++row)
    write_tokens(tree_.blocks(), tree_.prompts()[size_t(node(step[row]).prompt)], begin,
                 begin + length, tokens.data_ptr<int64_t>() + int64_t(row) * length);
  tokens = tokens.to(model_.device());

  Tensor last;
  for (int64_t fed = 0; fed < length;) {
    const int64_t count =
        std::min(length - fed, segment_tokens_ - state.position % segment_tokens_);
    last = model_.forward(tokens.narrow(1, fed, count), state, rule_).hidden.select(1, count - 1);
    fed += count;
    ++count_.forward_calls;
  }
  count_.tokens_fed += tokens.numel();
  return last.clone();  // else the hidden rows of the whole segment stay
}

void Feeder::answer(const std::vector<int32_t>& step,
                    State& state,
                    const Tensor& hidden,
                    bool goes_on,
                    const std::function<void(Leaves)>& on_leaves) {
  Leaves leaves;
  std::vector<int64_t> rows;
  for (size_t row = 0; row < step.size(); ++row)
    if (const auto& prompts = prompts_[size_t(step[row])]; !prompts.empty()) {
      rows.push_back(int64_t(row));
      leaves.prompts.push_back(prompts);
    }
  if (rows.empty())
    return;
  const auto batch = int64_t(step.size());
  leaves.state.position = state.position;
  for (LayerState& layer : state.layers) {
    leaves.state.layers.push_back(rows_of(layer, rows, batch));
    if (!goes_on)
      layer = {};
  }
  leaves.hidden = hidden.index_select(0, at::tensor(rows, at::kLong).to(hidden.device()));
  note_peak(int64_t(rows.size()) * (goes_on ? 2 : 1));
  on_leaves(std::move(leaves));
}

}  // namespace

TreeCount feed_tree(const RecurrentLM& model,
                    const Recurrence& rule,
                    const PromptTree& tree,
                    const TreePlan& plan,
                    int64_t segment_tokens,
                    const std::function<bool(int32_t prompt)>& wanted,
                    const std::function<void(Leaves)>& on_leaves) {
  return Feeder(model, rule, tree, segment_tokens).run(plan, wanted, on_leaves);
}

}  // namespace stuffed::eval
