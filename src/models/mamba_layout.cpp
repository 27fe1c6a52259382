#include "mamba_layout.h"

#include "stuffed/core/error.h"

namespace stuffed {

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
  if (!mamba_prefix(checkpoint).empty())
    return "codestral";
  return mamba_embedding_name(checkpoint) == "backbone.embeddings.weight" ? "hf" : "original";
}

bool mamba_head_is_tied(const Checkpoint& checkpoint) {
  const auto& entries = checkpoint.weights.entries();
  const auto head = entries.find(mamba_prefix(checkpoint) + "lm_head.weight");
  return head == entries.end() ||
         head->second.storage == entries.at(mamba_embedding_name(checkpoint)).storage;
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

io::json ssm_options(const Checkpoint& checkpoint) {
  if (!checkpoint.config.is_object())
    return io::json::object();
  const auto found = checkpoint.config.find("ssm_cfg");
  return found != checkpoint.config.end() && found->is_object() ? *found : io::json::object();
}

}  // namespace stuffed
