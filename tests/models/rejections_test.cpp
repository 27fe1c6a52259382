// What looks like a supported model and is none: each is turned away by a message that names what
// was found.
#include <gtest/gtest.h>

#include "stuffed/models/registry.h"
#include "support/files.h"
#include "support/pickle_writer.h"
#include "support/relayout.h"

namespace stuffed {
namespace {

using io::json;
using testing::expect_error;
using testing::TempFolder;
using testing::Tensors;

using Shapes = std::map<std::string, std::vector<int64_t>>;

struct Rejection {
  const char* what;
  Shapes tensors;
  json config;
  std::vector<std::string> says;  // beside the file's name
};

/// Names and shapes of an RWKV of one layer in BlinkDL's names, without its time mix.
Shapes rwkv(const Shapes& time_mix) {
  Shapes tensors = {{"emb.weight", {16, 8}},
                    {"blocks.0.ln0.weight", {8}},
                    {"blocks.0.ln1.weight", {8}},
                    {"blocks.0.att.key.weight", {8, 8}},
                    {"blocks.0.ffn.key.weight", {28, 8}},
                    {"head.weight", {16, 8}}};
  for (const auto& [name, shape] : time_mix)
    tensors["blocks.0.att." + name] = shape;
  return tensors;
}

const Shapes kMamba2 = {{"backbone.embeddings.weight", {16, 8}},
                        {"backbone.layers.0.norm.weight", {8}},
                        {"backbone.layers.0.mixer.in_proj.weight", {42, 8}},
                        {"backbone.layers.0.mixer.conv1d.weight", {24, 1, 4}},
                        {"backbone.layers.0.mixer.conv1d.bias", {24}},
                        {"backbone.layers.0.mixer.dt_bias", {2}},
                        {"backbone.layers.0.mixer.A_log", {2}},
                        {"backbone.layers.0.mixer.D", {2}},
                        {"backbone.layers.0.mixer.norm.weight", {16}},
                        {"backbone.layers.0.mixer.out_proj.weight", {8, 16}},
                        {"backbone.norm_f.weight", {8}}};

const Shapes kHgrn2 = {{"model.embeddings.weight", {16, 8}},
                       {"model.lower_bounds", {1, 8}},
                       {"model.layers.0.attn_norm.weight", {8}},
                       {"model.layers.0.attn.q_proj.weight", {8, 8}},
                       {"model.layers.0.attn.f_proj.weight", {8, 8}},
                       {"model.layers.0.attn.i_proj.weight", {8, 8}},
                       {"model.layers.0.attn.g_norm.weight", {8}},
                       {"model.layers.0.attn.o_proj.weight", {8, 8}},
                       {"model.layers.0.mlp_norm.weight", {8}},
                       {"model.layers.0.mlp.gate_proj.weight", {12, 8}},
                       {"model.layers.0.mlp.up_proj.weight", {12, 8}},
                       {"model.layers.0.mlp.down_proj.weight", {8, 12}},
                       {"model.norm.weight", {8}},
                       {"lm_head.weight", {16, 8}}};

Shapes with(Shapes tensors, const Shapes& more) {
  for (const auto& [name, shape] : more)
    tensors[name] = shape;
  return tensors;
}

Shapes without(Shapes tensors, const std::string& name) {
  tensors.erase(name);
  return tensors;
}

const std::vector<Rejection>& cases() {
  static const json hgrn2 = {{"expand_ratio", 4}};
  static const std::vector<Rejection> all = {
      // Relatives of RWKV.
      {"RWKV-4 in BlinkDL's names",
       rwkv({{"time_decay", {8}}, {"time_first", {8}}}),
       {},
       {"RWKV-4", "time_decay", "ln_x"}},
      {"RWKV-4 in Hugging Face's names",
       {{"rwkv.embeddings.weight", {16, 8}},
        {"rwkv.blocks.0.attention.time_decay", {8}},
        {"rwkv.blocks.0.attention.time_first", {8}}},
       {},
       {"RWKV-4"}},
      {"RWKV-5.0",
       rwkv({{"time_decay", {2}}, {"time_first", {2}}, {"ln_x.weight", {8}}}),
       {},
       {"RWKV-5.0 or 5.1", "time_decay", "[2]", "no gate"}},
      {"RWKV-5.1",
       rwkv({{"time_decay", {2, 1}},
             {"ln_x.weight", {8}},
             {"gate.weight", {8, 8}},
             {"time_mix_g", {1, 1, 8}}}),
       {},
       {"RWKV-5.0 or 5.1", "[2, 1]"}},
      {"RWKV x060a",
       rwkv({{"time_maa_rkvw_w1", {8, 8}},
             {"time_maa_x", {1, 1, 8}},
             {"time_decay", {1, 1, 8}},
             {"ln_x.weight", {8}}}),
       {},
       {"time_maa_rkvw_w1", "x060a/b/c"}},
      {"RWKV x060b, without a gate",
       rwkv({{"time_maa_x", {1, 1, 8}},
             {"time_maa_w1", {8, 20}},
             {"time_decay", {1, 1, 8}},
             {"ln_x.weight", {8}}}),
       {},
       {"time_maa_", "x060a/b/c"}},
      {"a file that ChatRWKV converted",
       with(rwkv({{"time_decay", {2, 4}}}), {{"_strategy", {1}}}),
       {},
       {"'_strategy'", "ChatRWKV"}},
      // Relatives of Mamba.
      {"a Mamba-2 with attention layers",
       with(kMamba2, {{"backbone.layers.1.mixer.in_proj.weight", {42, 8}}}),
       {},
       {"layer 1", "mixer.A_log", "attention"}},
      {"a Mamba-2 whose config names attention layers",
       kMamba2,
       {{"attn_layer_idx", {0}}},
       {"config.json", "attn_layer_idx", "attention"}},
      {"a Mamba-2 whose d_ssm is narrower",
       with(kMamba2, {{"backbone.layers.0.mixer.in_proj.weight", {58, 8}}}),
       {},
       {"58 rows", "d_ssm"}},
      {"a Mamba-2 of other groups", kMamba2, {{"n_groups", 3}}, {"config.json", "n_groups is 3"}},
      {"a Mamba-2 of another width",
       kMamba2,
       {{"hidden_size", 9}},
       {"config.json", "hidden_size is 9", "8"}},
      {"a Mamba-2 whose width is a text",
       kMamba2,
       {{"hidden_size", "8"}},
       {"config.json", "hidden_size is \"8\"", "whole number"}},
      {"a vocabulary larger than the embedding",
       kMamba2,
       {{"vocab_size", 17}},
       {"config.json", "vocab_size is 17", "16 rows"}},
      {"a missing tensor",
       without(kMamba2, "backbone.layers.0.mixer.D"),
       {},
       {"backbone.layers.0.mixer.D", "missing"}},
      {"an extra tensor",
       with(kMamba2, {{"backbone.layers.0.mixer.E", {2}}}),
       {},
       {"backbone.layers.0.mixer.E", "not part of this model"}},
      {"a misshapen tensor",
       with(kMamba2, {{"backbone.layers.0.mixer.dt_bias", {3}}}),
       {},
       {"backbone.layers.0.mixer.dt_bias", "[3]", "[2]", "d_model=8"}},
      // Relatives of HGRN-2.
      {"HGRN-1",
       with(kHgrn2, {{"model.layers.0.attn.g_proj.weight", {8, 8}}}),
       hgrn2,
       {"HGRN-1", "attn.g_proj"}},
      {"HGRN-1 of OpenNLPLab",
       {{"model.embed_tokens.weight", {16, 8}},
        {"model.layers.0.token_mixer.in_proj.weight", {8, 8}}},
       {{"model_type", "hgrn"}, {"decoder_embed_dim", 8}},
       {"no known model family", "model.embed_tokens.weight", "\"hgrn\""}},
      {"an HGRN-2 hybrid",
       kHgrn2,
       {{"expand_ratio", 4}, {"attn", {{"layers", {0}}}}},
       {"config.json", "attn", "hybrid"}},
      {"an HGRN-2 with residual attention",
       kHgrn2,
       {{"expand_ratio", 4}, {"attnres_block_size", 2}},
       {"config.json", "attnres_block_size"}},
      {"an HGRN-2 with a shared convolution",
       with(kHgrn2, {{"model.layers.0.attn.h_conv1d.weight", {8, 1, 4}}}),
       hgrn2,
       {"h_conv1d"}},
      {"an HGRN-2 of another expansion",
       kHgrn2,
       {{"expand_ratio", 3}},
       {"config.json", "expand_ratio is 3", "8"}},
      // Others.
      {"a transformer",
       {{"model.embed_tokens.weight", {16, 8}}, {"model.layers.0.self_attn.q_proj.weight", {8, 8}}},
       {{"model_type", "llama"}},
       {"no known model family", "self_attn.q_proj", "\"llama\"", "mamba2"}},
      {"a Jamba",
       {{"model.layers.0.mamba.A_log", {8, 4}}, {"model.layers.1.self_attn.q_proj.weight", {8, 8}}},
       {{"model_type", "jamba"}},
       {"no known model family", "\"jamba\""}},
  };
  return all;
}

TEST(Rejections, EachIsNamed) {
  for (const Rejection& test : cases()) {
    SCOPED_TRACE(test.what);
    const TempFolder folder;
    Tensors tensors;
    for (const auto& [name, shape] : test.tensors)
      tensors[name] = at::zeros(shape);
    testing::write_checkpoint(folder, tensors,
                              test.config.is_null() ? json::object() : test.config);
    for (const bool whole : {false, true})  // as inspect and as the rest see it
      try {
        if (whole)
          load_model(folder.path());
        else
          open_skeleton(folder.path());
        ADD_FAILURE() << "was accepted";
      } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_EQ(error.kind(), Error::Kind::Input) << message;
        EXPECT_NE(message.find(folder.path().string()), message.npos) << message;
        for (const std::string& part : test.says)
          EXPECT_NE(message.find(part), message.npos) << part << " is not in: " << message;
      }
  }
}

TEST(Rejections, TheModelsTheyDifferFromAreAccepted) {
  for (const auto& [tensors, config] :
       {std::pair{kMamba2, json::object()}, {kHgrn2, json{{"expand_ratio", 4}}}}) {
    const TempFolder folder;
    Tensors zeros;
    for (const auto& [name, shape] : tensors)
      zeros[name] = at::zeros(shape);
    testing::write_checkpoint(folder, zeros, config);
    EXPECT_NO_THROW(open_skeleton(folder.path()));
    EXPECT_NO_THROW(load_model(folder.path()));
  }
}

TEST(Rejections, AConvertedFileIsNamedThoughItsKeysAreNoTensors) {
  using testing::text;
  const TempFolder folder;
  const std::string items =
      testing::item({}) + text("_strategy") + text("cuda fp16") + text("_version") + text("0.7");
  folder.write("model.pth",
               testing::zip_archive({{.name = "m/data.pkl", .data = testing::pickle(items)},
                                     {.name = "m/data/0", .data = std::string(16, '\0')}}));
  expect_error(Error::Kind::Input, {"model.pth", "_strategy", "ChatRWKV"},
               [&] { load_model(folder.path()); });
}

TEST(Rejections, WholeNumbersAreNoWeights) {
  const TempFolder folder;
  Tensors tensors;
  for (const auto& [name, shape] : kMamba2)
    tensors[name] = at::zeros(shape, at::kInt);
  testing::write_checkpoint(folder, tensors, json::object());
  for (const bool whole : {false, true})
    expect_error(Error::Kind::Input, {"model.safetensors", "Int", "floating-point"}, [&] {
      if (whole)
        load_model(folder.path());
      else
        open_skeleton(folder.path());
    });
}

}  // namespace
}  // namespace stuffed
