#include "mamba_layout.h"

#include <cmath>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"

namespace stuffed {

float draw_step_bias(Rng& rng, const MambaBeginning& begin) {
  const double dt = std::max(
      begin.dt_floor,
      std::exp(std::log(begin.dt_min) + rng.uniform() * std::log(begin.dt_max / begin.dt_min)));
  return static_cast<float>(dt + std::log(-std::expm1(-dt)));
}

void read_mamba_beginning(const ConfigValues& config, MambaBeginning& begin) {
  begin.dt_min = config.number("time_step_min").value_or(begin.dt_min);
  begin.dt_max = config.number("time_step_max").value_or(begin.dt_max);
  begin.dt_floor = config.number("time_step_floor").value_or(begin.dt_floor);
  config.check(begin.dt_min > 0 && begin.dt_min <= begin.dt_max && begin.dt_max < 1e3 &&
                   begin.dt_floor >= 0 && begin.dt_floor < 1e3,
               "time_step_min ({}), time_step_max ({}) and time_step_floor ({}) are no range of "
               "steps",
               begin.dt_min, begin.dt_max, begin.dt_floor);
  begin.embedding_deviation =
      config.number("initializer_range").value_or(begin.embedding_deviation);
  config.check(begin.embedding_deviation > 0 && begin.embedding_deviation < 1e3,
               "initializer_range is {}, expected a deviation", begin.embedding_deviation);
  begin.scales_by_depth = config.flag("rescale_prenorm_residual").value_or(true);
}

Tensor new_step_bias(uint64_t seed,
                     const std::string& key,
                     int64_t count,
                     const MambaBeginning& begin) {
  Rng rng(seed, key);
  std::vector<float> bias;
  for (int64_t i = 0; i < count; ++i)
    bias.push_back(draw_step_bias(rng, begin));
  return at::tensor(bias);
}

std::string mamba_prefix(const Checkpoint& checkpoint) {
  return checkpoint.weights.has("model.backbone.norm_f.weight") ? "model." : "";
}

std::string mamba_embedding_name(const Checkpoint& checkpoint) {
  const std::string prefix = mamba_prefix(checkpoint);
  for (const char* name : {"backbone.embeddings.weight", "backbone.embedding.weight"})
    if (checkpoint.weights.has(prefix + name))
      return prefix + name;
  fail(Error::Kind::Input,
       "{}: has neither '{}backbone.embedding.weight' nor '...embeddings.weight'",
       checkpoint.weights.path().string(), prefix);
}

int64_t count_mamba_layers(const Checkpoint& checkpoint) {
  const std::string prefix = mamba_prefix(checkpoint) + "backbone.layers.";
  const int64_t layers = count_layers(checkpoint.weights, prefix);
  for (int64_t i = 0; i < layers; ++i)
    check(checkpoint.weights.has(fmt::format("{}{}.mixer.A_log", prefix, i)), Error::Kind::Input,
          "{}: layer {} has no mixer.A_log, so it is no Mamba layer: hybrids with attention are "
          "not supported, "
          "only purely recurrent models are (or the file is not complete)",
          checkpoint.weights.path().string(), i);
  return layers;
}

std::string mamba_layout(const Checkpoint& checkpoint) {
  if (config_has_any(checkpoint, {"dim", "n_layers"}))
    return "codestral";
  // Conversions to Hugging Face's layout keep the original's keys beside their own.
  if (config_has_any(checkpoint,
                     {"hidden_size", "num_hidden_layers", "num_heads", "head_dim", "state_size",
                      "n_groups", "conv_kernel", "layer_norm_epsilon", "time_step_limit",
                      "time_step_rank", "hidden_act", "intermediate_size", "use_bias",
                      "use_conv_bias", "mixer_rms_eps", "tie_word_embeddings"}) ||
      ConfigValues(checkpoint).text("model_type") == "falcon_mamba")
    return "hf";
  if (config_has_any(checkpoint, {"d_model", "n_layer", "ssm_cfg", "d_intermediate"}))
    return "original";
  if (!mamba_prefix(checkpoint).empty())
    return "codestral";
  return mamba_embedding_name(checkpoint) == "backbone.embeddings.weight" ? "hf" : "original";
}

bool mamba_head_is_tied(const Checkpoint& checkpoint) {
  return head_is_tied(
      checkpoint, {"tie_word_embeddings", "tie_embeddings", "tie_embedding_weights"},
      mamba_embedding_name(checkpoint), mamba_prefix(checkpoint) + "lm_head.weight");
}

void check_mamba_biases(const Checkpoint& checkpoint, const std::string& layout) {
  const std::string mixer = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  const bool hf = layout == "hf";
  const ConfigValues config(checkpoint, hf ? "" : "ssm_cfg");
  for (const auto& [key, tensor] : {std::pair{hf ? "use_bias" : "bias", "in_proj.bias"},
                                    {hf ? "use_conv_bias" : "conv_bias", "conv1d.bias"}})
    config.agree(key, checkpoint.weights.has(mixer + tensor), mixer + tensor);
}

Outline mamba_outline(const ModelSize& size, const std::vector<int64_t>& a_log, int64_t channels) {
  Outline outline{.shapes = {{"backbone.embedding.weight", {size.vocab_rows, size.d_model}}}};
  for (int64_t i = 0; i < size.layers; ++i)
    outline.shapes[fmt::format("backbone.layers.{}.mixer.A_log", i)] = a_log;
  const std::string mixer = "backbone.layers.0.mixer.";
  outline.shapes[mixer + "conv1d.weight"] = {channels, 1, 4};
  outline.shapes[mixer + "conv1d.bias"] = {channels};
  outline.shapes[mixer + "out_proj.weight"] = {size.d_model, 2 * size.d_model};
  return outline;
}

WeightMap mamba_weight_map(const Checkpoint& checkpoint, const Recognition&) {
  const std::string prefix = mamba_prefix(checkpoint), embedding = mamba_embedding_name(checkpoint);
  const bool tied = mamba_head_is_tied(checkpoint);
  WeightMap map;
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    if (!name.starts_with(prefix))
      continue;
    const std::string canonical =
        name == embedding ? "backbone.embeddings.weight" : name.substr(prefix.size());
    if (tied && canonical == "lm_head.weight")
      map.ignored.insert(name);
    else
      map.sources[canonical] = {.file_name = name};
  }
  return map;
}

}  // namespace stuffed
