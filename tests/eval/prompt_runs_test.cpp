#include "stuffed/eval/prompt_runs.h"

#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::eval {
namespace {

std::vector<int64_t> written(const TokenBlocks& blocks, const Prompt& prompt) {
  std::vector<int64_t> tokens(static_cast<size_t>(token_count(blocks, prompt)));
  write_tokens(blocks, prompt, 0, static_cast<int64_t>(tokens.size()), tokens.data());
  return tokens;
}

/// Random prompts over few blocks of few tokens, so that they share much and in many phases.
struct RandomPrompts {
  TokenBlocks blocks;
  std::vector<Prompt> prompts;

  explicit RandomPrompts(uint64_t seed) {
    Rng rng(seed, "prompts");
    std::vector<int32_t> ids;
    for (int i = 0; i < 5; ++i) {
      std::vector<int32_t> tokens(1 + rng.below(3));
      for (int32_t& token : tokens)
        token = static_cast<int32_t>(rng.below(2));
      ids.push_back(blocks.add(tokens));
    }
    for (int i = 0; i < 40; ++i) {
      Prompt prompt;
      for (uint64_t runs = 1 + rng.below(4); runs > 0; --runs)
        prompt.push_back({ids[rng.below(ids.size())], static_cast<int64_t>(1 + rng.below(3))});
      prompts.push_back(std::move(prompt));
    }
  }
};

TEST(PromptRuns, EqualBlocksHaveOneId) {
  TokenBlocks blocks;
  const std::vector<int32_t> a{1, 2}, b{1, 2, 3};
  EXPECT_EQ(blocks.add(a), blocks.add(std::vector<int32_t>{1, 2}));
  EXPECT_NE(blocks.add(a), blocks.add(b));
}

TEST(PromptRuns, CompareAsTheirTokensDo) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const RandomPrompts random(seed);
    for (const Prompt& a : random.prompts)
      for (const Prompt& b : random.prompts) {
        const auto x = written(random.blocks, a), y = written(random.blocks, b);
        const auto [xi, yi] = std::mismatch(x.begin(), x.end(), y.begin(), y.end());
        const Comparison found = compare(random.blocks, a, b);
        ASSERT_EQ(found.common, xi - x.begin());
        ASSERT_EQ(found.less, x < y);
      }
  }
}

TEST(PromptRuns, AnyPartCanBeWritten) {
  const RandomPrompts random(3);
  for (const Prompt& prompt : random.prompts) {
    const auto all = written(random.blocks, prompt);
    const auto count = static_cast<int64_t>(all.size());
    for (int64_t begin = 0; begin <= count; ++begin)
      for (int64_t end = begin; end <= count; ++end) {
        std::vector<int64_t> part(static_cast<size_t>(end - begin));
        write_tokens(random.blocks, prompt, begin, end, part.data());
        ASSERT_EQ(part, std::vector<int64_t>(all.begin() + begin, all.begin() + end));
      }
  }
}

TEST(PromptRuns, ATokenAcrossASeamBelongsWhereItBegins) {
  const std::string vocabulary = testing::package_file("rwkv/rwkv_vocab_v20230424.txt");
  if (vocabulary.empty())
    GTEST_SKIP() << "the Python package rwkv, which holds the World vocabulary, is not in .venv: "
                    "scripts/setup --test";
  const auto tokenizer = io::load_tokenizer(vocabulary);
  TokenBlocks blocks;
  PromptAssembler assembler(*tokenizer, blocks);
  const std::vector<Piece> pieces{{"Here we go.\n", 9}, {"\nWhat"}};
  const auto assembled = assembler.assemble(pieces);
  const auto whole = tokenizer->encode(testing::repeat("Here we go.\n", 9) + "\nWhat");
  EXPECT_EQ(written(blocks, assembled.prompt), std::vector<int64_t>(whole.begin(), whole.end()));
  EXPECT_EQ(whole[static_cast<size_t>(assembled.begins[1]) - 1], 261)
      << "the token of two newlines";
}

TEST(PromptRuns, RefusesPiecesThatTokensRunAcrossUnevenly) {
  const std::string vocabulary = testing::package_file("rwkv/rwkv_vocab_v20230424.txt");
  if (vocabulary.empty())
    GTEST_SKIP() << "the Python package rwkv, which holds the World vocabulary, is not in .venv: "
                    "scripts/setup --test";
  const auto tokenizer = io::load_tokenizer(vocabulary);
  TokenBlocks blocks;
  PromptAssembler assembler(*tokenizer, blocks);
  EXPECT_THROW(assembler.assemble(std::vector<Piece>{{"\n", 100}}), Error);
}

}  // namespace
}  // namespace stuffed::eval
