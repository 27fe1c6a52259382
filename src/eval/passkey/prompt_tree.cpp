// Builds the radix tree from the sorted prompts: what neighbours have in common says where paths
// part.
#include "stuffed/eval/prompt_tree.h"

#include <algorithm>
#include <numeric>

#include "stuffed/core/error.h"

namespace stuffed::eval {

PromptTree::PromptTree(TokenBlocks blocks, std::vector<Prompt> prompts)
    : blocks_(std::move(blocks)), prompts_(std::move(prompts)) {
  check(!prompts_.empty(), Error::Kind::Usage, "a prompt tree of no prompts");
  std::vector<int32_t> order(prompts_.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int32_t a, int32_t b) {
    return compare(blocks_, prompts_[size_t(a)], prompts_[size_t(b)]).less;
  });
  build(order);
}

int32_t PromptTree::add(int32_t parent, int32_t prompt, int64_t begin, int64_t end) {
  nodes_.push_back({parent, prompt, begin, end});
  ++nodes_[size_t(parent)].children;
  return int32_t(nodes_.size()) - 1;
}

void PromptTree::build(const std::vector<int32_t>& order) {
  nodes_.push_back({.parent = kNoParent, .prompt = order.front(), .begin = 0, .end = 0});
  ends_.resize(prompts_.size());
  std::vector<int32_t> path{kRoot};  // from the root to where the last prompt ended
  const auto end_of = [&](int32_t node) { return nodes_[size_t(node)].end; };

  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t prompt = order[i];
    const Prompt& runs = prompts_[size_t(prompt)];
    const int64_t count = token_count(blocks_, runs);
    check(count > 0, Error::Kind::Usage, "prompt {} has no tokens", prompt);
    const int64_t common =
        i == 0 ? 0 : compare(blocks_, prompts_[size_t(order[i - 1])], runs).common;

    int32_t below = kNoParent;  // the topmost node of the path that leads beyond `common`
    while (end_of(path.back()) > common) {
      below = path.back();
      path.pop_back();
    }
    if (end_of(path.back()) < common) {  // the paths part inside `below`: cut it in two
      const int32_t upper =
          add(path.back(), nodes_[size_t(below)].prompt, nodes_[size_t(below)].begin, common);
      --nodes_[size_t(path.back())].children;
      nodes_[size_t(below)].parent = upper;
      nodes_[size_t(below)].begin = common;
      nodes_[size_t(upper)].children = 1;
      path.push_back(upper);
    }
    if (common < count)
      path.push_back(add(path.back(), prompt, common, count));
    ends_[size_t(prompt)] = path.back();
  }
}

int64_t PromptTree::prompt_tokens() const {
  int64_t sum = 0;
  for (const int32_t node : ends_)
    sum += nodes_[size_t(node)].end;
  return sum;
}

int64_t PromptTree::tree_tokens() const {
  int64_t sum = 0;
  for (const TreeNode& node : nodes_)
    sum += node.end - node.begin;
  return sum;
}

}  // namespace stuffed::eval
