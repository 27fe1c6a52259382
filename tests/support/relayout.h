// Goldens written again in other layouts: the expected outputs stay the golden's.
#pragma once
#include <map>
#include <string>

#include "files.h"
#include "golden.h"

namespace stuffed::testing {

using Tensors = std::map<std::string, Tensor>;

/// Every tensor of a golden's checkpoint, by the file's names.
inline Tensors tensors_of(const std::string& golden) {
  const auto file = io::TensorFile::open(io::find_weights(golden_path(golden)));
  Tensors tensors;
  for (const auto& [name, entry] : file.entries())
    tensors[name] = file.load(name).clone();
  return tensors;
}

/// The golden's config.json, or an empty object. Without the limit (0, Infinity), which is the
/// default and which the JSON library would write as null.
inline io::json config_of(const std::string& golden) {
  const auto path = golden_path(golden) / "config.json";
  io::json config = std::filesystem::exists(path) ? io::read_json(path) : io::json::object();
  config.erase("time_step_limit");
  return config;
}

/// Writes `file` and, unless it is empty, config.json.
inline std::filesystem::path write_checkpoint(const TempFolder& folder,
                                              const Tensors& tensors,
                                              const io::json& config,
                                              const std::string& file = "model.safetensors") {
  io::write_safetensors(folder / file, {tensors.begin(), tensors.end()});
  if (!config.empty())
    folder.write("config.json", config.dump());
  return folder / file;
}

/// Renames the tensors whose names contain `from`.
inline void rename(Tensors& tensors, const std::string& from, const std::string& to) {
  Tensors renamed;
  for (const auto& [name, tensor] : tensors) {
    std::string now = name;
    if (const size_t at = now.find(from); at != std::string::npos)
      now.replace(at, from.size(), to);
    renamed[now] = tensor;
  }
  tensors = std::move(renamed);
}

/// Logits [T,vocab] f32 of the golden's first tokens.
inline Tensor logits_of_file(const std::filesystem::path& path,
                             const Golden& golden,
                             const LoadOptions& options = {}) {
  const auto model = load_model(path, options);
  State state = model->initial_state(1);
  return logits_of(*model, model->forward(golden.get("tokens").to(at::kLong), state).hidden);
}

/// The checkpoint at `path` computes what the golden's upstream code did.
inline ::testing::AssertionResult computes_golden(const std::filesystem::path& path,
                                                  const std::string& name) {
  const Golden golden(name);
  const Tensor logits = logits_of_file(path, golden);
  return close(logits, golden.get("logits").narrow(1, 0, logits.size(1)), 1e-5);
}

}  // namespace stuffed::testing
