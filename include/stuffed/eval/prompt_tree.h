// Answers many prompts that share text by feeding every shared run of tokens once: a radix tree
// over the prompts' tokens, whose nodes are fed from forks of their parents' states.
#pragma once
#include <functional>
#include <vector>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/prompt_runs.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// A run of tokens that all prompts below it share, and no others.
struct TreeNode {
  int32_t parent;  // kNoParent for the root, whose run is empty
  int32_t prompt;  // some prompt below: its tokens [begin, end) are the node's
  int64_t begin, end;
  int32_t children = 0;
};

class PromptTree {
 public:
  static constexpr int32_t kNoParent = -1;
  static constexpr int32_t kRoot = 0;

  /// Cost    O(n log n) comparisons of prompts; memory in proportion to n, whatever their lengths
  /// Errors  Usage if there is no prompt, or an empty one
  PromptTree(TokenBlocks blocks, std::vector<Prompt> prompts);

  const std::vector<TreeNode>& nodes() const { return nodes_; }
  /// Where each prompt ends; a node may end several, equal ones.
  const std::vector<int32_t>& ends() const { return ends_; }
  const TokenBlocks& blocks() const { return blocks_; }
  const std::vector<Prompt>& prompts() const { return prompts_; }
  int64_t prompt_tokens() const;  // of all prompts: what feeding each alone would take
  int64_t tree_tokens() const;    // of all nodes

 private:
  void build(const std::vector<int32_t>& order);
  int32_t add(int32_t parent, int32_t prompt, int64_t begin, int64_t end);

  TokenBlocks blocks_;
  std::vector<Prompt> prompts_;
  std::vector<TreeNode> nodes_;
  std::vector<int32_t> ends_;
};

struct TreeLimits {
  int64_t states = 1 << 20;       // of one sequence each, alive at a time, a leaf's copies included
  int64_t batch = 64;             // sequences fed at a time
  int64_t segment_tokens = 8192;  // runs are cut at absolute multiples of it
};

/// In which order, and in which batches, a tree is fed.
struct TreePlan {
  using Step = std::vector<int32_t>;  // nodes with equal begin and end, fed as one batch

  std::vector<Step> steps;  // parents before children
  int64_t peak_states = 0;
};

/// Nodes at the lowest position go first while at least half the allowed states are free, so that
/// prompts advance side by side in wide batches; beyond that the deepest node goes first, which
/// frees states soonest. Either way enough states stay free to finish any one subtree.
/// Errors  Usage if even one prompt at a time needs more than `limits.states`
TreePlan plan_tree(const PromptTree& tree, const TreeLimits& limits);

/// The fewest states plan_tree() can do with.
int64_t least_states(const PromptTree& tree);

/// Prompts that end here, in one batch.
struct Leaves {
  std::vector<std::vector<int32_t>> prompts;  // those of each row; more than one if they are equal
  State state;                                // of B rows, after the prompts' last tokens
  Tensor hidden;                              // [B,D]: the hidden rows of those tokens
};

struct TreeCount {
  int64_t tokens_fed = 0;
  int64_t peak_states = 0;
  int64_t forward_calls = 0;
};

/// Who watches a tree being fed, and where it begins.
struct TreeWatch {
  /// Feeding could go on from here; `fill` fills in what that takes.
  std::function<void(const std::function<void(Snapshot&)>& fill)> on_reached = {};
  /// After every forward call: of the `total` tokens this process is to feed, how many it has.
  std::function<void(int64_t fed, int64_t total)> on_fed = {};
  const Snapshot* from = nullptr;  // where the feeding of the same plan stopped
};

/// Feeds the tree step by step. Steps on which no wanted prompt depends are left out; the others
/// are fed whole, so that a resumed run repeats the numbers of the first. `on_leaves` gets every
/// prompt of a step that is fed, wanted or not, and may copy the batch's states once (these copies
/// are within the plan). But for rounding, a prompt's state and hidden row are those of the prompt
/// fed alone.
/// Errors  Interrupted by `watch`; Input if `watch.from` is of another plan
TreeCount feed_tree(const RecurrentLM& model,
                    const Recurrence& rule,
                    const PromptTree& tree,
                    const TreePlan& plan,
                    int64_t segment_tokens,
                    const std::function<bool(int32_t prompt)>& wanted,
                    const std::function<void(Leaves)>& on_leaves,
                    const TreeWatch& watch = {});

}  // namespace stuffed::eval
