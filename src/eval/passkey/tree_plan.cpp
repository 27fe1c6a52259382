// Decides in which order and batches a prompt tree is fed, so that batches are wide and states few.
#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>

#include "stuffed/core/error.h"
#include "stuffed/eval/prompt_tree.h"

namespace stuffed::eval {

namespace {

// Tokens of one forward call, in segments: bounds a batch's activations.
constexpr int64_t kBatchSegments = 4;

/// For each node: how many states, beyond its own, finishing its subtree takes, one node at a time.
/// A leaf's prompt is answered from a copy. Of several children, the one that needs most goes last
/// and takes over its parent's state; the others start from copies. (Strahler's number of a tree,
/// which is at most log2 of the number of leaves.)
std::vector<int64_t> state_needs(const PromptTree& tree) {
  const auto& nodes = tree.nodes();
  std::vector<int32_t> upwards(nodes.size());
  std::iota(upwards.begin(), upwards.end(), 0);
  std::ranges::sort(upwards, std::ranges::greater{},
                    [&](int32_t node) { return nodes[size_t(node)].end; });

  std::vector<int64_t> need(nodes.size(), 0), most(nodes.size(), -1), second(nodes.size(), -1);
  for (const int32_t node : tree.ends())  // an inner node's state is handed out as a copy, too
    need[size_t(node)] = nodes[size_t(node)].children == 0 ? 1 : 2;
  for (const int32_t node : upwards) {
    int64_t& own = need[size_t(node)];
    own = std::max({own, most[size_t(node)], second[size_t(node)] + 1});
    if (node == PromptTree::kRoot)
      continue;
    const auto parent = size_t(nodes[size_t(node)].parent);
    second[parent] = std::max(second[parent], std::min(own, most[parent]));
    most[parent] = std::max(most[parent], own);
  }
  return need;
}

class Planner {
 public:
  Planner(const PromptTree& tree, const TreeLimits& limits)
      : tree_(tree),
        limits_(limits),
        need_(state_needs(tree)),
        children_(tree.nodes().size()),
        ends_prompt_(tree.nodes().size(), false) {
    for (size_t i = 1; i < tree.nodes().size(); ++i)
      children_[size_t(tree.nodes()[i].parent)].push_back(int32_t(i));
    for (const int32_t node : tree.ends())
      ends_prompt_[size_t(node)] = true;
    for (const auto& children : children_)
      pending_.push_back(int64_t(children.size()));
  }

  TreePlan plan() {
    check(limits_.states > reserve(), Error::Kind::Usage,
          "these prompts need {} recurrent states at a time, and only {} are allowed; raise "
          "--state-memory",
          reserve() + 1, limits_.states);
    make_ready(PromptTree::kRoot);
    while (!ready_.empty())
      feed(next_group());
    return std::move(plan_);
  }

 private:
  /// Nodes that can be fed in one batch. A group's nodes all end prompts and have no children (they
  /// need 1 state), or none of them does both.
  struct Group {
    int64_t begin, need, end;
    auto operator<=>(const Group&) const = default;
  };
  struct Cost {
    int64_t started = 0;   // states made while the parents' are still held
    int64_t copies = 0;    // made for the answers
    int64_t released = 0;  // states of leaves, let go after the answers
  };

  const TreeNode& node(int32_t id) const { return tree_.nodes()[size_t(id)]; }
  int64_t reserve() const { return need_[PromptTree::kRoot]; }

  void make_ready(int32_t parent) {
    for (const int32_t child : children_[size_t(parent)])
      ready_[{node(child).begin, need_[size_t(child)], node(child).end}].push_back(child);
  }

  /// How many of the group's first nodes can be fed while `spare` states stay free; 0 if none.
  int64_t room(const Group& group, const std::vector<int32_t>& nodes, int64_t spare) const {
    const int64_t tokens = std::min(group.end - group.begin, limits_.segment_tokens);
    const int64_t most =
        std::min({limits_.batch, int64_t(nodes.size()),
                  std::max<int64_t>(1, kBatchSegments * limits_.segment_tokens / tokens)});
    int64_t rows = 0;
    Cost cost;
    std::unordered_map<int32_t, int64_t> left;  // children of a parent not yet started
    for (int64_t i = 0; i < most; ++i) {
      add(nodes[size_t(i)], cost, left);
      const int64_t grows = cost.started - cost.released;
      const bool fits = live_ + cost.started + cost.copies <= limits_.states;
      if (fits && (grows <= 0 || live_ + grows + spare <= limits_.states))
        rows = i + 1;
    }
    return rows;
  }

  void add(int32_t id, Cost& cost, std::unordered_map<int32_t, int64_t>& left) const {
    const int32_t parent = node(id).parent;
    int64_t& waiting = left.try_emplace(parent, pending_[size_t(parent)]).first->second;
    cost.started += --waiting > 0 ? 1 : 0;  // the last child takes over the parent's state
    const bool is_leaf = node(id).children == 0;
    cost.copies += !ends_prompt_[size_t(id)] ? 0 : is_leaf ? 1 : 2;
    cost.released += is_leaf ? 1 : 0;
  }

  std::vector<int32_t> next_group() {
    const auto wide = ready_.begin();
    if (const int64_t rows =
            room(wide->first, wide->second, std::max(limits_.states / 2, reserve())))
      return take(wide, rows);
    const auto deep = ready_.lower_bound({ready_.rbegin()->first.begin, 0, 0});
    return take(deep, std::max<int64_t>(1, room(deep->first, deep->second, reserve())));
  }

  std::vector<int32_t> take(std::map<Group, std::vector<int32_t>>::iterator group, int64_t rows) {
    std::vector<int32_t>& nodes = group->second;
    const std::vector<int32_t> taken(nodes.begin(), nodes.begin() + rows);
    nodes.erase(nodes.begin(), nodes.begin() + rows);
    if (nodes.empty())
      ready_.erase(group);
    return taken;
  }

  void feed(std::vector<int32_t> step) {
    Cost cost;
    std::unordered_map<int32_t, int64_t> left;
    for (const int32_t id : step)
      add(id, cost, left);
    for (const auto& [parent, waiting] : left)
      pending_[size_t(parent)] = waiting;
    plan_.peak_states = std::max(plan_.peak_states, live_ + cost.started + cost.copies);
    check(plan_.peak_states <= limits_.states, Error::Kind::Internal,
          "the plan of a prompt tree needs {} states of {}", plan_.peak_states, limits_.states);
    live_ += cost.started - cost.released;
    for (const int32_t id : step)
      make_ready(id);
    plan_.steps.push_back(std::move(step));
  }

  const PromptTree& tree_;
  const TreeLimits limits_;
  const std::vector<int64_t> need_;
  std::vector<std::vector<int32_t>> children_;
  std::vector<bool> ends_prompt_;
  std::vector<int64_t> pending_;                 // children not yet fed, per node
  std::map<Group, std::vector<int32_t>> ready_;  // nodes whose parent has been fed
  int64_t live_ = 1;                             // states held between steps; the root's at first
  TreePlan plan_;
};

}  // namespace

TreePlan plan_tree(const PromptTree& tree, const TreeLimits& limits) {
  return Planner(tree, limits).plan();
}

int64_t least_states(const PromptTree& tree) {
  return state_needs(tree)[PromptTree::kRoot] + 1;
}

}  // namespace stuffed::eval
