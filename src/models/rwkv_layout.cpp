// Names of the RWKV layouts, and which files must be turned away.
#include <algorithm>
#include <array>

#include "rwkv_blocks.h"
#include "stuffed/core/error.h"

namespace stuffed {

namespace {

bool replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos)
    return false;
  text.replace(at, from.size(), to);
  return true;
}

}  // namespace

std::string rwkv_block_prefix(const io::TensorDirectory& weights) {
  for (const char* prefix : {"blocks.", "rwkv.blocks."})
    if (count_layers(weights, prefix) > 0)
      return prefix;
  return "";
}

std::string rwkv_canonical(const std::string& name) {
  std::string canonical = name;
  if (!canonical.starts_with("rwkv."))
    return canonical;
  canonical.erase(0, 5);
  replace(canonical, "embeddings.", "emb.");
  replace(canonical, "pre_ln", "ln0");
  replace(canonical, ".attention.", ".att.");
  replace(canonical, ".feed_forward.", ".ffn.");
  for (const auto& [hf, blink] :
       {std::pair{"key", "k"}, {"value", "v"}, {"receptance", "r"}, {"gate", "g"}})
    if (canonical.ends_with(fmt::format(".time_mix_{}", hf)))
      replace(canonical, fmt::format(".time_mix_{}", hf), fmt::format(".time_mix_{}", blink));
  return canonical;
}

WeightMap rwkv_weight_map(const Checkpoint& checkpoint, const Recognition&) {
  WeightMap map;
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    if (name.ends_with("time_state")) {  // state tuning: an initial state, not a weight
      map.ignored.insert(name);
      continue;
    }
    WeightSource source{.file_name = name};
    if (entry.shape.size() == 3 && entry.shape[0] == 1 && entry.shape[1] == 1)
      source.convert = [](const Tensor& row) { return row.flatten(); };
    map.sources[rwkv_canonical(name)] = std::move(source);
  }
  return map;
}

void map_fla_head(const Checkpoint& checkpoint, WeightMap& map) {
  const std::string embedding = "model.embeddings.weight", head = "lm_head.weight";
  const ConfigValues config(checkpoint);
  const bool tied =
      config.flag("tie_word_embeddings").value_or(false) && !checkpoint.weights.has(head);
  map.sources["emb.weight"] = {.file_name = embedding};
  map.sources["head.weight"] = {.file_name = tied ? embedding : head};
}

std::pair<std::string, Tensor> rwkv_hf_saved(const std::string& name, const Tensor& tensor) {
  std::string theirs = name;
  replace(theirs, "emb.", "embeddings.");
  replace(theirs, "ln0", "pre_ln");
  replace(theirs, ".att.", ".attention.");
  replace(theirs, ".ffn.", ".feed_forward.");
  for (const auto& [hf, blink] :
       {std::pair{"key", "k"}, {"value", "v"}, {"receptance", "r"}, {"gate", "g"}})
    if (name.ends_with(fmt::format(".time_mix_{}", blink)))
      replace(theirs, fmt::format(".time_mix_{}", blink), fmt::format(".time_mix_{}", hf));
  const bool is_row = tensor.dim() == 1 && name.find(".time_") != std::string::npos;
  return {name.starts_with("head.") ? name : "rwkv." + theirs,
          is_row ? tensor.unsqueeze(0).unsqueeze(0) : tensor};
}

RwkvConfig new_rwkv_config(const ConfigValues& values,
                           std::string_view family,
                           std::span<const NewKey> keys) {
  check_new_config(values, family,
                   new_table("hf", family, "RwkvForCausalLM", keys,
                             {{"layer_norm_epsilon", {1e-5}},
                              {"tie_word_embeddings", {false}, "RWKV has a head of its own"}},
                             {"rescale_every"}));
  const int64_t width = new_size(values, "hidden_size");
  const int64_t attention = new_size(values, "attention_hidden_size", width);
  const int64_t head_size = new_size(values, "head_size", 64);
  values.check(attention % head_size == 0, "head_size {} does not divide the attention's width {}",
               head_size, attention);
  const int64_t divisor = new_size(values, "head_size_divisor", 8);
  values.check(divisor <= 1024, "head_size_divisor is {}, expected 8 or the like", divisor);
  const RwkvConfig config = {.d_model = width,
                             .layers = new_size(values, "num_hidden_layers"),
                             .heads = attention / head_size,
                             .head_size = head_size,
                             .ffn_width = new_size(values, "intermediate_size",
                                                   std::max<int64_t>(32, width * 7 / 2 / 32 * 32)),
                             .vocab_rows = new_size(values, "vocab_size"),
                             .ln_x_eps = 1e-5 * static_cast<double>(divisor * divisor)};
  values.agree_eps("a fixed one", config.eps);
  return config;
}

ConfigTable rwkv_hf_table(std::string_view model_type) {
  return {.kind = "hf",
          .model_types = {model_type},
          .read = {"hidden_size", "num_hidden_layers", "attention_hidden_size", "head_size",
                   "head_size_divisor", "intermediate_size", "vocab_size"},
          .fixed = {{"layer_norm_epsilon", {1e-5}, "the eps of some of the layer norms"},
                    {"norm_eps", {1e-5}, "the eps of some of the layer norms"},
                    {"tie_word_embeddings", {false}, "RWKV has a head of its own"}},
          // num_attention_heads has meant the heads' size; halving activations every so many layers
          // is f16's need alone.
          .harmless = {"num_attention_heads", "rescale_every", "model_version"}};
}

RwkvConfig read_rwkv_config(const Checkpoint& checkpoint,
                            const WeightMap& map,
                            const std::string& head_shape) {
  const auto shape = [&](const std::string& canonical, size_t dims) -> const std::vector<int64_t>& {
    const auto source = map.sources.find(canonical);
    return shape_of(checkpoint, source == map.sources.end() ? canonical : source->second.file_name,
                    dims);
  };
  const auto& embedding = shape("emb.weight", 2);
  const auto& heads = shape(head_shape, 2);
  int64_t layers = 0;
  while (map.sources.contains(fmt::format("blocks.{}.ln1.weight", layers)))
    ++layers;
  RwkvConfig config{.d_model = embedding[1],
                    .layers = layers,
                    .heads = heads[0],
                    .head_size = heads[1],
                    .ffn_width = shape("blocks.0.ffn.key.weight", 2)[0],
                    .vocab_rows = embedding[0]};
  check(config.d_model > 0 && config.layers > 0 && config.heads > 0 && config.head_size > 0,
        Error::Kind::Input, "{}: width {} and {} layers of {} heads of {} fit no RWKV",
        checkpoint.weights.path().string(), config.d_model, layers, heads[0], heads[1]);
  const ConfigValues values(checkpoint);
  values.agree("hidden_size", config.d_model);
  values.agree("num_hidden_layers", config.layers);
  values.agree("attention_hidden_size", config.heads * config.head_size);
  values.agree("head_size", config.head_size);
  values.agree("intermediate_size", config.ffn_width);
  const auto divisor = values.integer("head_size_divisor").value_or(8);
  values.check(divisor > 0 && divisor <= 1024, "head_size_divisor is {}, expected 8 or the like",
               divisor);
  config.ln_x_eps = 1e-5 * static_cast<double>(divisor * divisor);
  return config;
}

Outline rwkv_outline(const ModelSize& size, const std::string& heads) {
  const int64_t d = size.d_model;
  Outline outline{.shapes = {{"emb.weight", {size.vocab_rows, d}},
                             {"blocks.0.ffn.key.weight", {size.mlp_width, d}},
                             {"blocks.0.att.ln_x.weight", {d}},
                             {"blocks.0.att." + heads, {size.heads, d / size.heads}}}};
  for (int64_t i = 0; i < size.layers; ++i)
    outline.shapes[fmt::format("blocks.{}.ln1.weight", i)] = {d};
  return outline;
}

void reject_rwkv_relatives(const Checkpoint& checkpoint) {
  const auto& weights = checkpoint.weights;
  const std::string path = weights.path().string();
  for (const char* key : kChatRwkvKeys)
    if (weights.has(key))
      fail_chat_rwkv(weights.path(), key);
  if (rwkv_block_prefix(weights).empty())
    return;
  const bool has_gate =
      find_name(weights, "att.gate.weight") || find_name(weights, "attention.gate.weight");
  const auto* rkvw = find_name(weights, "time_maa_rkvw_w1");
  const auto* maa = find_name(weights, "time_maa_");
  check(!rkvw && !(maa && !has_gate), Error::Kind::Input,
        "{}: '{}' without a gate belongs to the experimental RWKV x060a/b/c, which are not "
        "supported; RWKV-6 (x060) is",
        path,
        rkvw  ? *rkvw
        : maa ? *maa
              : "");
  const bool attention =
      find_name(weights, "att.time_decay") || find_name(weights, "attention.time_decay");
  check(!attention || find_name(weights, "ln_x"), Error::Kind::Input,
        "{}: has time_decay but no ln_x: RWKV-4, which is not supported; RWKV-5.2, 6 and 7 are",
        path);
}

}  // namespace stuffed
