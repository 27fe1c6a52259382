#include "stuffed/eval/generate.h"

#include <array>
#include <filesystem>
#include <fstream>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "support/golden.h"

namespace stuffed {
namespace {

using eval::feed_prompt;
using eval::generate;

const std::array kLayouts = {"mamba2-hf", "mamba1-hf", "hgrn2-fla",
                             "rwkv5-pth", "rwkv6-hf",  "rwkv7-pth"};

std::vector<int32_t> prompt_of(const std::string& layout) {
  const Tensor tokens = testing::Golden(layout).get("tokens").to(at::kInt).contiguous();
  return {tokens.const_data_ptr<int32_t>(), tokens.const_data_ptr<int32_t>() + tokens.numel()};
}

SavedState fresh(const RecurrentLM& model) {
  return {.state = model.initial_state(1), .last_hidden = {}};
}

StateTag tag_of(const RecurrentLM& model) {
  return {.model_hash = model.config().hash,
          .family = model.config().family,
          .dtype = "f32",
          .state_dtype = "f32",
          .mitigations = "none"};
}

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::path(::testing::TempDir()) / name;
}

TEST(Generate, GreedyContinuationMatchesUpstream) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = load_model(testing::golden_path(layout));
    SavedState saved = fresh(*model);
    feed_prompt(*model, plain_scan(), prompt_of(layout), 64, saved);
    const auto made = generate(*model, plain_scan(), nullptr, {.max_new_tokens = 8}, saved);
    EXPECT_TRUE(at::equal(at::tensor(made.new_tokens),
                          testing::Golden(layout).get("greedy").to(at::kLong).view(-1)))
        << layout;
  }
}

TEST(Generate, SavedAndLoadedContinuesBitForBit) {
  at::NoGradGuard no_grad;
  const eval::GenerateOptions five = {
      .sampler = {.temperature = 0.9, .top_k = 40, .greedy = false, .seed = 3},
      .max_new_tokens = 5};
  for (const std::string layout : kLayouts) {
    const auto model = load_model(testing::golden_path(layout));
    SavedState whole = fresh(*model);
    feed_prompt(*model, plain_scan(), prompt_of(layout), 64, whole);
    const auto path = temporary(layout + ".state");
    save_state(path, whole, tag_of(*model));
    SavedState loaded = load_state(path, tag_of(*model), *model);
    const auto never_stopped = generate(*model, plain_scan(), nullptr, five, whole);
    const auto continued = generate(*model, plain_scan(), nullptr, five, loaded);
    EXPECT_EQ(never_stopped.new_tokens, continued.new_tokens) << layout;
    EXPECT_EQ(whole.state.position, loaded.state.position);
    EXPECT_TRUE(testing::bitwise_equal(loaded.last_hidden, whole.last_hidden)) << layout;
    for (size_t i = 0; i < whole.state.layers.size(); ++i)
      EXPECT_TRUE(
          testing::bitwise_equal(loaded.state.layers[i].recurrent, whole.state.layers[i].recurrent))
          << layout;
  }
}

TEST(StateFile, RefusesAnotherModelNamingTheField) {
  at::NoGradGuard no_grad;
  const auto model = load_model(testing::golden_path("mamba2-hf"));
  SavedState saved = fresh(*model);
  feed_prompt(*model, plain_scan(), prompt_of("mamba2-hf"), 64, saved);
  const auto path = temporary("refused.state");
  save_state(path, saved, tag_of(*model));
  for (const char* field : {"model_hash", "mitigations", "state_dtype"}) {
    StateTag other = tag_of(*model);
    (std::string_view(field) == "model_hash"    ? other.model_hash
     : std::string_view(field) == "mitigations" ? other.mitigations
                                                : other.state_dtype) = "other";
    try {
      load_state(path, other, *model);
      ADD_FAILURE() << field;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Input);
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  }
  const auto weights = testing::golden_path("mamba2-hf") / "model.safetensors";
  EXPECT_THROW(load_state(weights, tag_of(*model), *model), Error);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const Tensor logits = at::tensor({0.5f, 0.25f, 0.125f, 0.125f}).log();
  std::array<int, 4> counts{};
  const eval::SamplerOptions all = {.greedy = false, .seed = 1};
  for (int64_t position = 0; position < 20000; ++position)
    ++counts.at(static_cast<size_t>(eval::sample(logits, all, position)));
  EXPECT_NEAR(counts[0], 10000, 350);  // 5 standard deviations
  EXPECT_NEAR(counts[1], 5000, 310);
  EXPECT_NEAR(counts[3], 2500, 235);
}

TEST(Sampler, TopKAndTopPKeepTheLikeliest) {
  const Tensor logits = at::tensor({0.1f, 0.5f, 0.15f, 0.25f}).log();
  for (int64_t position = 0; position < 200; ++position) {
    EXPECT_EQ(eval::sample(logits, {.top_k = 1, .greedy = false}, position), 1);
    EXPECT_EQ(eval::sample(logits, {.top_p = 0.4, .greedy = false}, position), 1);
    const int64_t drawn = eval::sample(logits, {.top_p = 0.7, .greedy = false}, position);
    EXPECT_TRUE(drawn == 1 || drawn == 3);
  }
  EXPECT_EQ(eval::sample(logits, {.greedy = true}, 0), 1);
}

}  // namespace
}  // namespace stuffed
