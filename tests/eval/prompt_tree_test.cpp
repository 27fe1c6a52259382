#include "stuffed/eval/prompt_tree.h"

#include <set>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/models/registry.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

constexpr int64_t kSegment = 16;

/// Random prompts over few blocks: they share long and short beginnings, some are beginnings of
/// others, and some are equal.
PromptTree random_tree(uint64_t seed, int prompts, int64_t vocab = 300) {
  Rng rng(seed, "tree");
  TokenBlocks blocks;
  std::vector<int32_t> ids;
  for (const size_t size : {1, 2, 5, 7, 30}) {
    std::vector<int32_t> tokens(size);
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
    ids.push_back(blocks.add(tokens));
  }
  std::vector<Prompt> all;
  for (int i = 0; i < prompts; ++i) {
    Prompt prompt{{ids[4], 1}};
    for (uint64_t runs = rng.below(5); runs > 0; --runs)
      prompt.push_back({ids[rng.below(4)], static_cast<int64_t>(1 + rng.below(2))});
    all.push_back(std::move(prompt));
  }
  return PromptTree(std::move(blocks), std::move(all));
}

std::vector<int64_t> tokens_of(const PromptTree& tree, int32_t prompt) {
  const Prompt& runs = tree.prompts()[static_cast<size_t>(prompt)];
  std::vector<int64_t> tokens(static_cast<size_t>(token_count(tree.blocks(), runs)));
  write_tokens(tree.blocks(), runs, 0, static_cast<int64_t>(tokens.size()), tokens.data());
  return tokens;
}

TEST(PromptTree, HasOneNodeForEveryDistinctRun) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const PromptTree tree = random_tree(seed, 60);
    std::set<std::vector<int64_t>> beginnings;  // a trie's nodes
    for (int32_t prompt = 0; prompt < 60; ++prompt) {
      const auto tokens = tokens_of(tree, prompt);
      for (size_t n = 1; n <= tokens.size(); ++n)
        beginnings.emplace(tokens.begin(), tokens.begin() + static_cast<int64_t>(n));
    }
    EXPECT_EQ(tree.tree_tokens(), static_cast<int64_t>(beginnings.size()));
    for (const TreeNode& node : tree.nodes()) {
      EXPECT_TRUE(node.parent == PromptTree::kNoParent ||
                  tree.nodes()[static_cast<size_t>(node.parent)].end == node.begin);
      EXPECT_TRUE(node.begin < node.end || node.parent == PromptTree::kNoParent);
    }
  }
}

TEST(PromptTree, PlansFeedEveryNodeOnceAndParentsFirst) {
  int64_t widest = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const PromptTree tree = random_tree(seed, 60);
    const int64_t least = least_states(tree);
    for (const int64_t states : {least, least + 1, least + 5, int64_t{1000}}) {
      const TreePlan plan = plan_tree(tree, {.states = states, .batch = 8});
      EXPECT_LE(plan.peak_states, states);
      std::vector<bool> fed(tree.nodes().size(), false);
      fed[PromptTree::kRoot] = true;
      for (const auto& step : plan.steps) {
        widest = std::max(widest, static_cast<int64_t>(step.size()));
        for (const int32_t id : step) {
          const TreeNode& node = tree.nodes()[static_cast<size_t>(id)];
          EXPECT_TRUE(fed[static_cast<size_t>(node.parent)]);
          EXPECT_EQ(node.begin, tree.nodes()[static_cast<size_t>(step.front())].begin);
          EXPECT_EQ(node.end, tree.nodes()[static_cast<size_t>(step.front())].end);
        }
        for (const int32_t id : step) {
          EXPECT_FALSE(fed[static_cast<size_t>(id)]);
          fed[static_cast<size_t>(id)] = true;
        }
      }
      EXPECT_EQ(std::ranges::count(fed, false), 0);
    }
    EXPECT_THROW(plan_tree(tree, {.states = least - 1}), Error);
  }
  EXPECT_GT(widest, 1);
  EXPECT_LE(widest, 8);
}

struct Alone {
  Tensor hidden;
  State state;
};

Alone feed_alone(const RecurrentLM& model, const std::vector<int64_t>& tokens) {
  State state = model.initial_state(1);
  const Tensor all = at::tensor(tokens, at::kLong).unsqueeze(0);
  Tensor last;
  for (int64_t begin = 0; begin < all.size(1); begin += kSegment) {
    const int64_t count = std::min(kSegment, all.size(1) - begin);
    last = model.forward(all.narrow(1, begin, count), state).hidden.select(1, count - 1);
  }
  return {last, state};
}

class PromptTreeFeed : public ::testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradients_;
  std::unique_ptr<RecurrentLM> model_ = load_model(testing::golden_path(GetParam()));
};

TEST_P(PromptTreeFeed, LeavesEqualTheirPromptsFedAlone) {
  const PromptTree tree = random_tree(5, 24);
  std::vector<Alone> alone;
  for (int32_t prompt = 0; prompt < 24; ++prompt)
    alone.push_back(feed_alone(*model_, tokens_of(tree, prompt)));
  for (const TreeLimits limits :
       {TreeLimits{.states = least_states(tree), .batch = 1}, TreeLimits{.states = 30, .batch = 3},
        TreeLimits{.states = 1000, .batch = 64}}) {
    const TreePlan plan = plan_tree(tree, limits);
    std::vector<int> answered(24, 0);
    const TreeCount count = feed_tree(
        *model_, plain_scan(), tree, plan, kSegment, [](int32_t) { return true; },
        [&](const Leaves& leaves) {
          for (size_t row = 0; row < leaves.prompts.size(); ++row)
            for (const int32_t prompt : leaves.prompts[row]) {
              ++answered[static_cast<size_t>(prompt)];
              const Alone& expected = alone[static_cast<size_t>(prompt)];
              const State state = leaves.state.select({static_cast<int64_t>(row)});
              EXPECT_EQ(state.position, expected.state.position);
              EXPECT_TRUE(testing::close(leaves.hidden[static_cast<int64_t>(row)],
                                         expected.hidden[0], 1e-5));
              for (size_t layer = 0; layer < state.layers.size(); ++layer)
                EXPECT_TRUE(testing::close(state.layers[layer].recurrent,
                                           expected.state.layers[layer].recurrent, 1e-5));
            }
        });
    EXPECT_EQ(answered, std::vector<int>(24, 1));
    EXPECT_EQ(count.tokens_fed, tree.tree_tokens());
    EXPECT_EQ(count.peak_states, plan.peak_states);
    EXPECT_LE(count.peak_states, limits.states);
  }
}

TEST_P(PromptTreeFeed, AResumedRunRepeatsTheBitsOfTheFirst) {
  const PromptTree tree = random_tree(6, 24);
  const TreePlan plan = plan_tree(tree, {.states = 12, .batch = 4});
  std::map<int32_t, Tensor> first;
  const auto all = [](int32_t) { return true; };
  const TreeCount whole =
      feed_tree(*model_, plain_scan(), tree, plan, kSegment, all, [&](const Leaves& leaves) {
        for (size_t row = 0; row < leaves.prompts.size(); ++row)
          for (const int32_t prompt : leaves.prompts[row])
            first[prompt] = leaves.hidden[int64_t(row)].clone();
      });
  const auto wanted = [](int32_t prompt) { return prompt == 7 || prompt == 20; };
  int found = 0;
  const TreeCount part =
      feed_tree(*model_, plain_scan(), tree, plan, kSegment, wanted, [&](const Leaves& leaves) {
        for (size_t row = 0; row < leaves.prompts.size(); ++row)
          for (const int32_t prompt : leaves.prompts[row]) {
            found += wanted(prompt) ? 1 : 0;
            EXPECT_TRUE(testing::bitwise_equal(leaves.hidden[int64_t(row)], first.at(prompt)));
          }
      });
  EXPECT_EQ(found, 2);
  EXPECT_LT(part.tokens_fed, whole.tokens_fed);
  EXPECT_LE(part.peak_states, plan.peak_states);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         PromptTreeFeed,
                         ::testing::Values("mamba1-hf",
                                           "mamba2-hf",
                                           "mamba2-original",
                                           "rwkv5-pth",
                                           "rwkv6-fla",
                                           "rwkv7-pth",
                                           "hgrn2-fla"),
                         testing::name_of_golden);

}  // namespace
}  // namespace stuffed::eval
