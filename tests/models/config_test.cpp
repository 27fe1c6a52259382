// What families make of the keys of published configs: none is refused or reported.
#include <gtest/gtest.h>

#include "stuffed/models/registry.h"
#include "support/relayout.h"

namespace stuffed {
namespace {

using io::json;
using testing::config_of;
using testing::expect_error;
using testing::TempFolder;
using testing::tensors_of;
using testing::write_checkpoint;

/// What a library of Hugging Face's adds to any config.
const json kGeneral = {{"_name_or_path", "x"},
                       {"architectures", {"X"}},
                       {"auto_map", {{"AutoConfig", "x.X"}}},
                       {"bos_token_id", 0},
                       {"eos_token_id", 0},
                       {"pad_token_id", 0},
                       {"torch_dtype", "bfloat16"},
                       {"transformers_version", "4.48.0"},
                       {"use_cache", true}};

struct Published {
  const char* golden;  // of the same layout
  json keys;           // as published, but for widths
};

const std::vector<Published>& published_keys() {
  static const std::vector<Published> all = {
      {"mamba2-hf",
       {{"chunk_size", 256},
        {"hidden_act", "silu"},
        {"layer_norm_epsilon", 1e-5},
        {"model_type", "mamba2"},
        {"norm_before_gate", true},
        {"rescale_prenorm_residual", false},
        {"residual_in_fp32", true},
        {"rms_norm", true},
        {"tie_word_embeddings", true},
        {"time_step_floor", 1e-4},
        {"time_step_init_scheme", "random"},
        {"time_step_max", 0.1},
        {"time_step_min", 1e-3},
        {"time_step_rank", 256},
        {"time_step_scale", 1.0},
        {"use_bias", false},
        {"use_conv_bias", true}}},
      {"mamba2-original",
       {{"d_intermediate", 0},
        {"attn_layer_idx", json::array()},
        {"attn_cfg", json::object()},
        {"rms_norm", true},
        {"residual_in_fp32", true},
        {"fused_add_norm", true},
        {"pad_vocab_size_multiple", 16},
        {"tie_embeddings", true}}},
      {"mamba1-hf",
       {{"d_inner", 128},
        {"d_model", 64},
        {"n_layer", 3},
        {"fused_add_norm", true},
        {"hidden_act", "silu"},
        {"model_type", "mamba"},
        {"pad_vocab_size_multiple", 8},
        {"rms_norm", true},
        {"ssm_cfg", json::object()},
        {"time_step_rank", 4},
        {"use_mambapy", false}}},
      {"mamba1-original",
       {{"ssm_cfg", json::object()},
        {"rms_norm", true},
        {"residual_in_fp32", true},
        {"fused_add_norm", true},
        {"pad_vocab_size_multiple", 8}}},
      {"rwkv5-hf",
       {{"context_length", 4096},
        {"model_type", "rwkv5"},
        {"model_version", "5_2"},
        {"num_attention_heads", 32},
        {"rescale_every", 6},
        {"tie_word_embeddings", false}}},
      {"rwkv6-hf",
       {{"head_size_divisor", 8},
        {"model_type", "rwkv6"},
        {"num_attention_heads", 64},
        {"rescale_every", 6},
        {"tie_word_embeddings", false}}},
      {"rwkv6-fla",
       {{"attn_mode", "chunk"},
        {"expand_k", 1},
        {"expand_v", 1},
        {"fuse_cross_entropy", true},
        {"fuse_norm", true},
        {"hidden_act", "sqrelu"},
        {"hidden_ratio", 3.5},
        {"initializer_range", 0.02},
        {"max_position_embeddings", 2048},
        {"model_type", "rwkv6"},
        {"norm_bias", true},
        {"norm_eps", 1e-5},
        {"norm_first", true},
        {"use_l2warp", true}}},
      {"hgrn2-fla",
       {{"attn_mode", "fused_chunk"},
        {"clamp_min", nullptr},
        {"conv_size", 4},
        {"elementwise_affine", true},
        {"fuse_cross_entropy", true},
        {"hidden_act", "swish"},
        {"intermediate_size", nullptr},
        {"max_position_embeddings", 2048},
        {"model_type", "hgrn2"},
        {"rms_norm_eps", 1e-6},
        {"share_conv_kernel", true},
        {"use_lower_bound", true},
        {"use_short_conv", false}}},
  };
  return all;
}

TEST(Config, NoKeyOfAPublishedCheckpointIsRefusedOrReported) {
  for (const auto& [golden, keys] : published_keys()) {
    SCOPED_TRACE(golden);
    const TempFolder folder;
    json config = config_of(golden);
    config.update(kGeneral);
    config.update(keys);
    if (config.contains("rms_norm_eps"))
      config.erase("norm_eps");
    if (config["model_type"].is_null())
      config.erase("model_type");
    write_checkpoint(folder, tensors_of(golden), config);
    const Skeleton skeleton = open_skeleton(folder.path());
    EXPECT_EQ(skeleton.model->config().unknown_keys, std::vector<std::string>{});
    // A file without aliases has a head of its own; only several groups say something.
    for (const std::string& warning : skeleton.model->config().warnings)
      ADD_FAILURE() << warning;
  }
}

/// The keys of a conversion older than the merged code, for the golden `mamba2-hf`: its own names
/// hold what the tensors say, the merged code's the class's defaults.
const json kOlderKeys = {{"model_type", "mamba2"},
                         {"hidden_size", 64},
                         {"num_hidden_layers", 3},
                         {"vocab_size", 320},
                         {"mamba2_num_heads", 8},
                         {"mamba2_head_dim", 16},
                         {"mamba2_conv_kernel", 4},
                         {"use_mamba2_bias", false},
                         {"use_conv_bias", true},
                         {"num_heads", 128},
                         {"n_groups", 8},
                         {"state_size", 128},
                         {"attention_head_dim", 128},
                         {"attention_conv_kernel", 4},
                         {"num_attention_heads", 30},
                         {"num_key_value_heads", 30},
                         {"attention_layers_idx", json::array()},
                         {"use_attention_qkv_bias", false},
                         {"use_attention_out_bias", false},
                         {"rope_theta", 10000.0},
                         {"rope_scaling", nullptr},
                         {"rope_emb_dim", 64},
                         {"mlp_intermediate_size", 0},
                         {"mlp_padding_size", 128},
                         {"use_mlp_bias", false},
                         {"rescale_prenorm_residual", false},
                         {"tie_embedding_weights", true}};

TEST(Config, AnOlderConversionIsBelievedInItsOwnNamesAlone) {
  const TempFolder folder;
  const auto opened = [&](const char* key, const json& value) {
    json config = kOlderKeys;
    config.update(kGeneral);
    if (*key)
      config[key] = value;
    auto tensors = tensors_of("mamba2-hf");
    tensors.erase("lm_head.weight");
    const auto file = write_checkpoint(folder, tensors, config);
    return open_skeleton(file).model->config().unknown_keys;
  };
  EXPECT_EQ(opened("", {}), std::vector<std::string>{});
  EXPECT_EQ(opened("mamba2_gain", 2), std::vector<std::string>{"mamba2_gain"});
  EXPECT_EQ(opened("attention_sink", 1), std::vector<std::string>{"attention_sink"});
  for (const auto& [key, value] : {std::pair<const char*, json>{"mamba2_num_heads", 9},
                                   {"mamba2_head_dim", 32},
                                   {"mamba2_conv_kernel", 3},
                                   {"use_mamba2_bias", true},
                                   {"mlp_intermediate_size", 64},
                                   {"attention_layers_idx", {1}},
                                   {"tie_embedding_weights", false}})
    expect_error(Error::Kind::Input, {key}, [&] { opened(key, value); });
}

TEST(Config, TheTokenizerDecidesBeforeTheRuleOfThumb) {
  const TempFolder folder;
  json config = config_of("mamba2-hf");
  const auto file = write_checkpoint(folder, tensors_of("mamba2-hf"), config);
  const auto vocab = [&](std::optional<int64_t> ids) {
    return open_skeleton(file, {.gated_norm = {}, .tokenizer_ids = ids}).model->config().vocab;
  };
  EXPECT_EQ(vocab(std::nullopt), 320);
  EXPECT_EQ(vocab(317), 317);
  EXPECT_EQ(vocab(320), 320);
  EXPECT_EQ(vocab(321), 320);  // another model's
}

TEST(Config, TheWayOfTheGatedNormIsOneOfTwo) {
  const TempFolder folder;
  const auto file =
      write_checkpoint(folder, tensors_of("mamba2-original"), config_of("mamba2-original"));
  const auto form = [&](std::optional<std::string> asked) {
    return open_skeleton(file, {.gated_norm = std::move(asked), .tokenizer_ids = {}})
        .model->config();
  };
  EXPECT_EQ(form(std::nullopt).gated_norm, "group");
  EXPECT_TRUE(form(std::nullopt).warnings.empty()) << "the original's is by group, whatever else";
  EXPECT_EQ(form("whole").gated_norm, "whole");
  EXPECT_TRUE(testing::computes_golden(file, "mamba2-original"));
}

TEST(Config, TwoTensorsMayNotBecomeOne) {
  const TempFolder folder;
  auto tensors = tensors_of("mamba2-hf");
  tensors["module.backbone.norm_f.weight"] = tensors.at("backbone.norm_f.weight");
  const auto file = write_checkpoint(folder, tensors, config_of("mamba2-hf"));
  expect_error(Error::Kind::Input, {"module.backbone.norm_f.weight"}, [&] { open_skeleton(file); });
}

}  // namespace
}  // namespace stuffed
