// Layouts that no golden has: written here from a golden's weights, they must compute what the
// golden's upstream code computed.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "support/pickle_writer.h"
#include "support/relayout.h"

namespace stuffed {
namespace {

namespace fs = std::filesystem;
using io::json;
using testing::computes_golden;
using testing::config_of;
using testing::TempFolder;
using testing::Tensors;
using testing::tensors_of;
using testing::write_checkpoint;

class Layouts : public ::testing::Test {
 protected:
  at::NoGradGuard no_grad_;
  TempFolder folder_;
};

TEST_F(Layouts, DoublesAreTheSameNumbersInEveryFamily) {
  for (const std::string& name : testing::goldens()) {
    const testing::Golden golden(name);
    Tensors tensors = tensors_of(name);
    for (auto& [tensor_name, tensor] : tensors)
      tensor = tensor.to(at::kDouble);
    const auto file = write_checkpoint(folder_, tensors, config_of(name));
    EXPECT_TRUE(testing::bitwise_equal(testing::logits_of_file(file, golden),
                                       testing::logits_of_file(testing::golden_path(name), golden)))
        << name;
    fs::remove(folder_ / "config.json");
  }
}

TEST_F(Layouts, Hgrn2WithOneMatrixForGateAndUpProjection) {
  Tensors tensors = tensors_of("hgrn2-fla");
  for (const char* layer : {"0", "1", "2"}) {
    const std::string mlp = fmt::format("model.layers.{}.mlp.", layer);
    tensors[mlp + "gate_proj.weight"] =
        at::cat({tensors[mlp + "gate_proj.weight"], tensors[mlp + "up_proj.weight"]});
    tensors.erase(mlp + "up_proj.weight");
  }
  const auto file = write_checkpoint(folder_, tensors, config_of("hgrn2-fla"));
  EXPECT_EQ(load_model(file)->config().layout, "fla-fused-gate");
  EXPECT_TRUE(computes_golden(file, "hgrn2-fla"));
}

TEST_F(Layouts, Hgrn2TakesItsHeadsFromEitherField) {
  json config = config_of("hgrn2-fla");
  config["expand_ratio"] = nullptr;
  EXPECT_TRUE(
      computes_golden(write_checkpoint(folder_, tensors_of("hgrn2-fla"), config), "hgrn2-fla"));
  config["expand_ratio"] = 32;
  config["num_heads"] = nullptr;
  EXPECT_TRUE(
      computes_golden(write_checkpoint(folder_, tensors_of("hgrn2-fla"), config), "hgrn2-fla"));
}

/// RWKV-7 by flash-linear-attention's names: vectors flat or not, low-rank factors transposed.
Tensors fla_rwkv7() {
  const std::map<std::string, std::string> names = {
      {"emb.", "model.embeddings."}, {"ln_out.", "model.norm."},        {"head.", "lm_head."},
      {".ln0.", ".pre_norm."},       {".ln1.", ".attn_norm."},          {".ln2.", ".ffn_norm."},
      {"att.ln_x.", "attn.g_norm."}, {"att.receptance", "attn.r_proj"}, {"att.key", "attn.k_proj"},
      {"att.value", "attn.v_proj"},  {"att.output", "attn.o_proj"}};
  Tensors tensors = tensors_of("rwkv7-pth");
  for (const auto& [ours, theirs] : names)
    testing::rename(tensors, ours, theirs);
  for (const char* lora : {"w", "a", "v", "g"})
    for (const auto& [ours, theirs] :
         {std::pair{"0", "2.bias"}, {"1", "0.weight"}, {"2", "2.weight"}}) {
      const std::string from = fmt::format("att.{}{}", lora, ours);
      for (auto& [name, tensor] : tensors)
        if (name.ends_with(from))
          tensor = ours[0] == '0' ? tensor.flatten() : tensor.t().contiguous();
      testing::rename(tensors, from, fmt::format("attn.{}_lora.lora.{}", lora, theirs));
    }
  testing::rename(tensors, ".att.", ".attn.");
  testing::rename(tensors, "blocks.", "model.layers.");
  return tensors;
}

TEST_F(Layouts, Rwkv7InFlashLinearAttentionsNames) {
  Tensors tensors = fla_rwkv7();
  const json config = {{"model_type", "rwkv7"}, {"hidden_size", 128}, {"vocab_size", 320}};
  const auto file = write_checkpoint(folder_, tensors, config);
  EXPECT_EQ(load_model(file)->config().layout, "fla");
  EXPECT_TRUE(computes_golden(file, "rwkv7-pth"));
  // The first block mixes no values: its factors may be absent, the vectors flat.
  for (auto& [name, tensor] : tensors)
    if (name.find("attn.x_") != std::string::npos || name.ends_with("k_k"))
      tensor = tensor.flatten();
  for (const char* part : {"0.weight", "2.weight", "2.bias"})
    ASSERT_EQ(tensors.erase(fmt::format("model.layers.0.attn.v_lora.lora.{}", part)), 1u);
  EXPECT_TRUE(computes_golden(write_checkpoint(folder_, tensors, config), "rwkv7-pth"));
}

TEST_F(Layouts, CodestralsOwnNamesAndParams) {
  Tensors tensors;
  for (const auto& [name, tensor] : tensors_of("mamba2-original"))
    tensors["model." + name] = tensor;
  const json params = {{"dim", 64},     {"n_layers", 3},           {"vocab_size", 317},
                       {"n_groups", 2}, {"tie_embeddings", false}, {"residual_in_fp32", true}};
  const auto file = write_checkpoint(folder_, tensors, {}, "consolidated.safetensors");
  folder_.write("params.json", params.dump());
  const auto model = load_model(file);
  EXPECT_EQ(model->config().layout, "codestral");
  EXPECT_EQ(model->config().vocab, 317);
  EXPECT_TRUE(computes_golden(file, "mamba2-original"));
}

TEST_F(Layouts, ShardsWithAnIndex) {
  json map = json::object();
  Tensors shards[2];
  for (const auto& [name, tensor] : tensors_of("mamba2-hf")) {
    const int shard = map.size() % 2;
    shards[shard][name] = tensor;
    map[name] = fmt::format("model-0000{}-of-00002.safetensors", shard + 1);
  }
  for (int i = 0; i < 2; ++i)
    write_checkpoint(folder_, shards[i], config_of("mamba2-hf"),
                     fmt::format("model-0000{}-of-00002.safetensors", i + 1));
  folder_.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  EXPECT_TRUE(computes_golden(folder_.path(), "mamba2-hf"));
}

/// Every tensor a view of one storage: matrices column by column, with gaps between them; the head,
/// if `tied`, the embedding's very elements.
std::string zip_of_views(const Tensors& tensors, bool tied) {
  std::string items, storage;
  std::map<std::string, int64_t> offsets;
  int64_t count = 0;
  for (const auto& [name, tensor] : tensors) {
    const bool alias = tied && name == "lm_head.weight";
    offsets[name] = alias ? offsets.at("backbone.embedding.weight") : count + 3;
    if (!alias)
      count += tensor.numel() + 3;
  }
  for (const auto& [name, tensor] : tensors) {
    const bool turned = tensor.dim() == 2;
    const Tensor elements = (turned ? tensor.t() : tensor).to(at::kFloat).contiguous();
    const auto bytes = static_cast<size_t>(elements.nbytes());
    if (const auto begin = static_cast<size_t>(offsets[name]) * 4; begin + bytes > storage.size()) {
      storage.resize(begin, '\x7f');
      storage.append(static_cast<const char*>(elements.const_data_ptr()), bytes);
    }
    const std::vector<int64_t> size = tensor.sizes().vec();
    items += testing::item(
        {.name = name,
         .count = count,
         .offset = offsets[name],
         .size = size,
         .stride = turned ? std::vector<int64_t>{1, size[0]} : elements.strides().vec()});
  }
  return testing::zip_archive({{.name = "m/data.pkl", .data = testing::pickle(items)},
                               {.name = "m/data/0", .data = storage}});
}

TEST_F(Layouts, ViewsOfOneStorage) {
  for (const char* name : {"rwkv5-pth", "mamba2-original", "mamba1-original"}) {
    const Tensors tensors = tensors_of(name);
    folder_.write("pytorch_model.bin", zip_of_views(tensors, tensors.contains("lm_head.weight")));
    if (!config_of(name).empty())
      folder_.write("config.json", config_of(name).dump());
    EXPECT_TRUE(computes_golden(folder_ / "pytorch_model.bin", name)) << name;
    if (tensors.contains("lm_head.weight")) {
      const auto original = load_model(testing::golden_path(name));
      EXPECT_EQ(load_model(folder_ / "pytorch_model.bin")->config().parameters,
                original->config().parameters)
          << name << ": a shared head is one parameter";
    }
  }
}

TEST_F(Layouts, SavedInitialStatesAreNoWeights) {
  Tensors tensors = tensors_of("rwkv6-pth");
  tensors["blocks.0.att.time_state"] = at::randn({2, 64, 64});
  EXPECT_TRUE(computes_golden(write_checkpoint(folder_, tensors, {}), "rwkv6-pth"));
}

TEST_F(Layouts, Mamba2WithItsOptionalTensors) {
  Tensors tensors = tensors_of("mamba2-original");
  for (const char* layer : {"0", "1", "2"}) {
    const std::string block = fmt::format("backbone.layers.{}.", layer), mixer = block + "mixer.";
    // D a channel instead of a head; projection biases and an MLP that add nothing.
    tensors[mixer + "D"] = tensors[mixer + "D"].repeat_interleave(16);
    tensors[mixer + "in_proj.bias"] = at::zeros({392});
    tensors[mixer + "out_proj.bias"] = at::zeros({64});
    tensors[block + "norm2.weight"] = at::ones({64});
    tensors[block + "mlp.fc1.weight"] = at::randn({256, 64});
    tensors[block + "mlp.fc2.weight"] = at::zeros({64, 128});
  }
  json config = config_of("mamba2-original");
  config["d_intermediate"] = 100;  // 128 once rounded up
  EXPECT_TRUE(computes_golden(write_checkpoint(folder_, tensors, config), "mamba2-original"));
}

TEST_F(Layouts, Mamba2WithoutConvolutionBiasIsOneOfZeros) {
  const testing::Golden golden("mamba2-hf");
  Tensors with = tensors_of("mamba2-hf"), without = with;
  for (auto& [name, tensor] : with)
    if (name.ends_with("conv1d.bias")) {
      tensor = at::zeros_like(tensor);
      without.erase(name);
    }
  const TempFolder other;
  auto config = config_of("mamba2-hf");
  config["use_conv_bias"] = false;
  EXPECT_TRUE(testing::close(
      testing::logits_of_file(write_checkpoint(folder_, without, config), golden),
      testing::logits_of_file(write_checkpoint(other, with, config_of("mamba2-hf")), golden),
      1e-6));
}

TEST_F(Layouts, LowRanksAndWidthsThatTheTensorsContradictAreRefused) {
  const auto refused = [&](const Tensors& tensors, json config, const char* key,
                           const json& value) {
    write_checkpoint(folder_, tensors, config);
    load_model(folder_.path());
    config[key] = value;
    write_checkpoint(folder_, tensors, config);
    testing::expect_error(Error::Kind::Input, {key}, [&] { load_model(folder_.path()); });
  };
  const json rwkv7 = {{"model_type", "rwkv7"}, {"hidden_size", 128}, {"vocab_size", 320}};
  for (const char* key :
       {"decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim"})
    refused(fla_rwkv7(), rwkv7, key, 1000);
  for (const auto& [key, value] : {std::pair<const char*, json>{"expand_k", 0.5},
                                   {"expand_v", 2},
                                   {"proj_low_rank_dim", 1000},
                                   {"gate_low_rank_dim", 1000}})
    refused(tensors_of("rwkv6-fla"), config_of("rwkv6-fla"), key, value);
}

TEST_F(Layouts, AnOlderConversionsConfigIsNotBelieved) {
  // Its fields have other names, and those it shares hold the class's defaults.
  const json config = {{"model_type", "mamba2"}, {"mamba2_head_dim", 16}, {"mamba2_conv_kernel", 4},
                       {"num_heads", 128},       {"n_groups", 8},         {"state_size", 128},
                       {"vocab_size", 320}};
  EXPECT_TRUE(
      computes_golden(write_checkpoint(folder_, tensors_of("mamba2-hf"), config), "mamba2-hf"));
}

// ---- HGRN-2 with short convolutions: no upstream outputs, so a plain implementation ----

/// [T,D] normalised row by row.
Tensor plain_norm(const Tensor& x, const Tensor& weight, double eps) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

/// y_t = sum over m of taps[m] * x_{t-(W-1)+m}, channel by channel; zeros before the start.
Tensor plain_conv(const Tensor& x, const Tensor& taps) {
  Tensor y = at::zeros_like(x);
  const int64_t width = taps.size(2), tokens = x.size(0);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t m = 0; m < width; ++m)
      if (const int64_t from = t - (width - 1) + m; from >= 0)
        y[t] += taps.select(2, m).squeeze(1) * x[from];
  return y;
}

/// Logits [T,vocab] in f64, token by token: the equations of arXiv:2404.07904 as
/// flash-linear-attention runs them (the convolution before silu(q), none of its own), written
/// without anything of ours.
Tensor plain_hgrn2(const Tensors& stored, int64_t layers, int64_t heads, const Tensor& tokens) {
  Tensors w;
  for (const auto& [name, tensor] : stored)
    w[name] = tensor.to(at::kDouble);
  const Tensor shares = at::softmax(w.at("model.lower_bounds"), 0);
  Tensor x = at::embedding(w.at("model.embeddings.weight"), tokens.view(-1));
  const int64_t count = x.size(0), expand = x.size(1) / heads;
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i), attn = layer + "attn.";
    const Tensor u = plain_norm(x, w.at(layer + "attn_norm.weight"), 1e-6);
    const auto projected = [&](const std::string& part) {
      const Tensor y = u.matmul(w.at(attn + part + "_proj.weight").t());
      const auto taps = w.find(attn + part + "_conv1d.weight");
      return taps == w.end() ? y : plain_conv(y, taps->second);
    };
    const Tensor q = at::silu(projected("q")), v = projected("i");
    const Tensor low = shares.narrow(0, 0, i + 1).sum(0) - shares[0];
    const Tensor forget = low + (1 - low) * at::sigmoid(projected("f"));
    Tensor memory = at::zeros({heads, expand, expand}, at::kDouble);
    std::vector<Tensor> rows;
    for (int64_t t = 0; t < count; ++t) {
      const auto column = [&](const Tensor& all) { return all[t].view({heads, expand, 1}); };
      memory = memory * column(forget) + column(1 - forget) * v[t].view({heads, 1, expand});
      rows.push_back((memory * column(q)).sum(1).flatten() / std::sqrt(double(expand)));
    }
    x = x + plain_norm(at::stack(rows), w.at(attn + "g_norm.weight"), 1e-5)
                .matmul(w.at(attn + "o_proj.weight").t());
    const Tensor m = plain_norm(x, w.at(layer + "mlp_norm.weight"), 1e-6);
    const auto mlp = [&](const char* part) { return w.at(layer + "mlp." + part + ".weight").t(); };
    x = x +
        (at::silu(m.matmul(mlp("gate_proj"))) * m.matmul(mlp("up_proj"))).matmul(mlp("down_proj"));
  }
  return plain_norm(x, w.at("model.norm.weight"), 1e-6).matmul(w.at("lm_head.weight").t());
}

TEST_F(Layouts, ThePlainHgrn2IsUpstreams) {
  const testing::Golden golden("hgrn2-fla");
  const Tensor tokens = golden.get("tokens").to(at::kLong);
  EXPECT_TRUE(testing::close(plain_hgrn2(tensors_of("hgrn2-fla"), 3, 4, tokens),
                             golden.get("logits"), 1e-5));
}

TEST_F(Layouts, Hgrn2WithShortConvolutions) {
  const testing::Golden golden("hgrn2-fla");
  const Tensor tokens = golden.get("tokens").to(at::kLong);
  Tensors tensors = tensors_of("hgrn2-fla");
  at::manual_seed(5);
  for (const char* layer : {"0", "1", "2"})
    for (const char* part : {"q", "f", "i"})
      tensors[fmt::format("model.layers.{}.attn.{}_conv1d.weight", layer, part)] =
          at::randn({128, 1, 4}) * 0.5;
  json config = config_of("hgrn2-fla");
  config["use_short_conv"] = true;
  const auto file = write_checkpoint(folder_, tensors, config);
  const Tensor expected = plain_hgrn2(tensors, 3, 4, tokens);
  EXPECT_TRUE(testing::close(testing::logits_of_file(file, golden), expected, 1e-5));
  // And with the columns carried over every cut.
  const Tensor log_probs = at::log_softmax(expected.narrow(0, 0, 149), -1);
  const Tensor nll = -log_probs.gather(1, tokens.narrow(1, 1, 149).view({-1, 1})).squeeze(1);
  const auto model = load_model(file);
  for (const int64_t segment : {149, 37, 2, 1})
    EXPECT_TRUE(testing::close(testing::segmented_nll(*model, tokens, segment), nll, 1e-5))
        << "segment " << segment;
}

}  // namespace
}  // namespace stuffed
