// Feeds a prompt tree by its plan, holding exactly the states the plan counts on.
#include <algorithm>
#include <limits>
#include <ranges>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/eval/prompt_tree.h"
#include "stuffed/models/state_file.h"

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

/// The step being fed: its nodes in the order of the rows, and how far it got.
struct Current {
  size_t index = 0;  // in the plan
  std::vector<int32_t> nodes = {};
  State state = {};
  int64_t fed = 0;     // tokens of each row
  Tensor hidden = {};  // [B,D], of the tokens fed last; undefined before the first
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
         const TreePlan& plan,
         int64_t segment_tokens,
         const TreeWatch& watch)
      : model_(model),
        rule_(rule),
        tree_(tree),
        plan_(plan),
        segment_tokens_(segment_tokens),
        watch_(watch),
        pending_(tree.nodes().size(), 0),
        home_(tree.nodes().size()),
        prompts_(tree.nodes().size()) {
    for (size_t prompt = 0; prompt < tree.ends().size(); ++prompt)
      prompts_[size_t(tree.ends()[prompt])].push_back(int32_t(prompt));
  }

  TreeCount run(const std::function<bool(int32_t)>& wanted,
                const std::function<void(Leaves)>& on_leaves) {
    const size_t first = watch_.from ? load_step(*watch_.from) : 0;
    const std::vector<bool> needed = needed_steps(first, wanted);
    Current current{.index = first};
    if (watch_.from)
      load(*watch_.from, needed.at(first), current);
    else if (pending_[PromptTree::kRoot] > 0)
      hold(model_.initial_state(1), {PromptTree::kRoot});
    for (size_t i = first; i < plan_.steps.size(); ++i) {
      if (!needed[i])
        continue;
      if (current.index != i || current.nodes.empty()) {
        current = {.index = i};
        reached(current);
        begin(current);
      }
      feed(current, on_leaves);
      current = {.index = i + 1};
    }
    return count_;
  }

 private:
  const TreeNode& node(int32_t id) const { return tree_.nodes()[size_t(id)]; }

  /// Marks the steps from `first` on that a wanted prompt depends on, and counts each node's
  /// children in them.
  std::vector<bool> needed_steps(size_t first, const std::function<bool(int32_t)>& wanted) {
    std::vector<bool> needed(plan_.steps.size(), false);
    for (size_t i = plan_.steps.size(); i-- > first;) {
      const auto& step = plan_.steps[i];
      needed[i] = std::ranges::any_of(step, [&](int32_t id) {
        return pending_[size_t(id)] > 0 || std::ranges::any_of(prompts_[size_t(id)], wanted);
      });
      if (needed[i])
        for (const int32_t id : step) {
          ++pending_[size_t(node(id).parent)];
          tokens_to_feed_ += node(id).end - node(id).begin;
        }
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

  void begin(Current& current);
  void feed(Current& current, const std::function<void(Leaves)>& on_leaves);
  std::vector<Source> sources_of(const std::vector<int32_t>& step);
  State start(const std::vector<int32_t>& step);
  void advance(Current& current);
  void answer(const std::vector<int32_t>& step,
              State& state,
              const Tensor& hidden,
              bool goes_on,
              const std::function<void(Leaves)>& on_leaves);

  void reached(const Current& current) const {
    if (watch_.on_reached)
      watch_.on_reached([&](Snapshot& snapshot) { fill(snapshot, current); });
  }
  void fill(Snapshot& snapshot, const Current& current) const;
  size_t load_step(const Snapshot& from) const;
  void load(const Snapshot& from, bool needed, Current& current);
  std::vector<int32_t> load_nodes(const Snapshot& from, const std::string& name) const;

  const RecurrentLM& model_;
  const Recurrence& rule_;
  const PromptTree& tree_;
  const TreePlan& plan_;
  const int64_t segment_tokens_;
  const TreeWatch& watch_;
  int64_t tokens_to_feed_ = 0, fed_here_ = 0;  // by this process
  std::vector<int64_t> pending_;               // children still to be fed, per node
  std::vector<BatchPointer> home_;             // where a node's state is, while it is held
  std::vector<std::vector<int32_t>> prompts_;  // that end at a node
  int64_t batches_ = 0;
  int64_t live_ = 0;  // rows of all batches, and of the step being fed
  TreeCount count_;
};

void Feeder::begin(Current& current) {
  current.nodes = plan_.steps[current.index];
  std::ranges::stable_sort(current.nodes, {},
                           [&](int32_t id) { return home_[size_t(node(id).parent)]->serial; });
  current.state = start(current.nodes);
  live_ += int64_t(current.nodes.size());
  note_peak(0);
}

void Feeder::feed(Current& current, const std::function<void(Leaves)>& on_leaves) {
  advance(current);
  const std::vector<int32_t>& step = current.nodes;
  State& state = current.state;
  std::vector<int64_t> kept;
  std::vector<int32_t> nodes;
  for (size_t row = 0; row < step.size(); ++row)
    if (pending_[size_t(step[row])] > 0) {
      kept.push_back(int64_t(row));
      nodes.push_back(step[row]);
    }
  answer(step, state, current.hidden, !kept.empty(), on_leaves);
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

void Feeder::advance(Current& current) {
  const std::vector<int32_t>& step = current.nodes;
  const int64_t begin = node(step.front()).begin + current.fed,
                length = node(step.front()).end - begin;
  if (length == 0)
    return;
  Tensor tokens = at::empty({int64_t(step.size()), length}, at::kLong);
  for (size_t row = 0; row < step.size(); ++row)
    write_tokens(tree_.blocks(), tree_.prompts()[size_t(node(step[row]).prompt)], begin,
                 begin + length, tokens.data_ptr<int64_t>() + int64_t(row) * length);
  tokens = tokens.to(model_.device());

  State& state = current.state;
  for (int64_t fed = 0; fed < length;) {
    const int64_t count =
        std::min(length - fed, segment_tokens_ - state.position % segment_tokens_);
    const Tensor hidden =
        model_.forward(tokens.narrow(1, fed, count), state, rule_).hidden.select(1, count - 1);
    current.hidden = hidden.clone();  // else the hidden rows of the whole segment stay
    fed += count;
    current.fed += count;
    ++count_.forward_calls;
    count_.tokens_fed += int64_t(step.size()) * count;
    fed_here_ += int64_t(step.size()) * count;
    if (watch_.on_fed)
      watch_.on_fed(fed_here_, tokens_to_feed_);
    reached(current);
  }
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

Tensor as_tensor(const std::vector<int32_t>& nodes) {
  return at::tensor(std::vector<int64_t>(nodes.begin(), nodes.end()), at::kLong);
}

std::string held_name(size_t batch, const char* what) {
  return fmt::format("held.{}.{}", batch, what);
}

void Feeder::fill(Snapshot& snapshot, const Current& current) const {
  std::map<int64_t, BatchPointer> held;  // in the order they were made
  for (const BatchPointer& batch : home_)
    if (batch)
      held[batch->serial] = batch;
  size_t index = 0;
  std::vector<int64_t> serials, positions;
  for (const auto& [serial, batch] : held) {
    put_state(snapshot.tensors, held_name(index, ""), batch->state);
    snapshot.tensors[held_name(index++, "nodes")] = as_tensor(batch->nodes);
    serials.push_back(serial);
    positions.push_back(batch->state.position);
  }
  snapshot.tensors["held"] =
      at::stack({at::tensor(serials, at::kLong), at::tensor(positions, at::kLong)});
  if (!current.nodes.empty()) {
    put_state(snapshot.tensors, "step.", current.state);
    snapshot.tensors["step.nodes"] = as_tensor(current.nodes);
    snapshot.tensors["step.hidden"] = current.hidden;
  }
  snapshot.fields.update({{"step", current.index},
                          {"fed", current.fed},
                          {"position", current.state.position},
                          {"batches", batches_},
                          {"tokens_fed", count_.tokens_fed},
                          {"forward_calls", count_.forward_calls},
                          {"peak_states", count_.peak_states}});
}

size_t Feeder::load_step(const Snapshot& from) const {
  return size_t(from.integer("step", 0, int64_t(plan_.steps.size()) - 1));
}

std::vector<int32_t> Feeder::load_nodes(const Snapshot& from, const std::string& name) const {
  const Tensor& saved = from.at(name, at::kLong, 1);
  std::vector<int32_t> nodes;
  for (int64_t i = 0; i < saved.numel(); ++i) {
    const int64_t id = saved.const_data_ptr<int64_t>()[i];
    from.check_that(0 <= id && id < int64_t(tree_.nodes().size()));
    nodes.push_back(int32_t(id));
  }
  return nodes;
}

/// `needed`: a wanted prompt still depends on the step that was stopped in.
void Feeder::load(const Snapshot& from, bool needed, Current& current) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const Tensor& held = from.at("held", at::kLong, 2);
  from.check_that(held.size(0) == 2);
  for (int64_t i = 0; i < held.size(1); ++i) {
    const std::vector<int32_t> nodes = load_nodes(from, held_name(size_t(i), "nodes"));
    from.check_that(!nodes.empty());
    batches_ = held[0][i].item<int64_t>() - 1;  // hold() gives the next number
    hold(take_state(from.tensors, held_name(size_t(i), ""), held[1][i].item<int64_t>(),
                    int64_t(nodes.size()), model_, from.where),
         nodes);
  }
  batches_ = from.integer("batches", 0, kMost);
  count_ = {.tokens_fed = from.integer("tokens_fed", 0, kMost),
            .peak_states = from.integer("peak_states", 0, kMost),
            .forward_calls = from.integer("forward_calls", 0, kMost)};
  if (!needed || !from.tensors.contains("step.nodes"))
    return;
  current.nodes = load_nodes(from, "step.nodes");
  std::vector<int32_t> here = current.nodes, planned = plan_.steps[current.index];
  std::ranges::sort(here);
  std::ranges::sort(planned);
  from.check_that(here == planned);
  const TreeNode& first = node(current.nodes.front());
  current.fed = from.integer("fed", 1, first.end - first.begin);
  const auto rows = int64_t(current.nodes.size());
  current.state =
      take_state(from.tensors, "step.", first.begin + current.fed, rows, model_, from.where);
  current.hidden = from.at("step.hidden", model_.dtype(), 2)
                       .to(model_.device(), model_.dtype(), false, /*copy=*/true);
  from.check_that(current.hidden.size(0) == rows &&
                  current.hidden.size(1) == model_.config().d_model);
  for (const int32_t id : current.nodes)
    --pending_[size_t(node(id).parent)];
  live_ += rows;
  tokens_to_feed_ -= current.fed * rows;
}

}  // namespace

TreeCount feed_tree(const RecurrentLM& model,
                    const Recurrence& rule,
                    const PromptTree& tree,
                    const TreePlan& plan,
                    int64_t segment_tokens,
                    const std::function<bool(int32_t prompt)>& wanted,
                    const std::function<void(Leaves)>& on_leaves,
                    const TreeWatch& watch) {
  return Feeder(model, rule, tree, plan, segment_tokens, watch).run(wanted, on_leaves);
}

}  // namespace stuffed::eval
