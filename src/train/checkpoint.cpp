#include "src/train/checkpoint.h"

#include <charconv>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "stuffed/core/error.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::train {

namespace {

/// Errors  Input if it is no number of steps
int64_t step_in(const std::string& text, const std::filesystem::path& path) {
  int64_t step = -1;
  const char* const end = text.data() + text.size();
  const bool is_number = std::from_chars(text.data(), end, step).ptr == end && step >= 0;
  check(is_number, Error::Kind::Input,
        "{}: its metadata say step '{}', which is no number of steps", path.string(), text);
  return step;
}

}  // namespace

void save_checkpoint(const std::filesystem::path& path,
                     const NamedTensors& tensors,
                     int64_t step,
                     const io::json& config) {
  NamedTensors on_cpu;
  for (const auto& [name, tensor] : tensors)
    on_cpu.emplace_back(name, tensor.detach().to(at::kCPU));
  io::write_safetensors(path, on_cpu, {{"step", std::to_string(step)}, {"config", config.dump()}});
}

bool is_checkpoint(const std::filesystem::path& path) {
  return io::has_metadata(path, "step") && io::has_metadata(path, "config");
}

std::optional<SavedRun> SavedRun::open(const std::filesystem::path& path, const io::json& config) {
  if (!std::filesystem::exists(path))
    return std::nullopt;
  const io::TensorFile file = io::TensorFile::open(path);
  const auto& metadata = file.metadata();
  check(metadata.contains("step") && metadata.contains("config"), Error::Kind::Input,
        "{}: is no checkpoint of a training run (its metadata lacks step or config)",
        path.string());
  check(metadata.at("config") == config.dump(), Error::Kind::Usage,
        "{}: was written under another configuration: {}; use another folder, or --overwrite",
        path.string(), metadata.at("config"));
  return SavedRun(file, step_in(metadata.at("step"), path));
}

void SavedRun::restore(const NamedTensors& tensors) const {
  const std::string path = file_.path().string();
  const at::NoGradGuard no_grad;
  for (auto [name, tensor] : tensors) {
    check(has(name), Error::Kind::Input, "{}: lacks tensor '{}'", path, name);
    const Tensor stored = file_.load(name);
    check(stored.sizes() == tensor.sizes(), Error::Kind::Input,
          "{}: tensor '{}' has shape [{}], expected [{}]", path, name,
          fmt::join(stored.sizes(), ","), fmt::join(tensor.sizes(), ","));
    tensor.copy_(stored);
  }
}

}  // namespace stuffed::train
