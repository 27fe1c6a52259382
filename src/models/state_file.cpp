#include "stuffed/models/state_file.h"

#include <charconv>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed {

namespace {

constexpr const char* kVersion = "1";

std::map<std::string, std::string> fields(const StateTag& tag) {
  return {{"model_hash", tag.model_hash},
          {"family", tag.family},
          {"dtype", tag.dtype},
          {"state_dtype", tag.state_dtype},
          {"mitigations", tag.mitigations}};
}

std::string slot_prefix(size_t layer) {
  return fmt::format("layers.{}.", layer);
}

/// A tensor of the saved state, checked against the shape and type a fresh state of the model has.
Tensor checked(const io::TensorFile& file, const std::string& name, const Tensor& fresh) {
  check(file.has(name), Error::Kind::Input, "{}: saved state without '{}'", file.path().string(),
        name);
  const Tensor tensor = file.load(name);
  check(tensor.sizes() == fresh.sizes() && tensor.scalar_type() == fresh.scalar_type(),
        Error::Kind::Input, "{}: '{}' is {} [{}], this model's is {} [{}]", file.path().string(),
        name, at::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "),
        at::toString(fresh.scalar_type()), fmt::join(fresh.sizes(), ", "));
  return tensor.to(fresh.device(), tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
}

void check_tag(const io::TensorFile& file, const StateTag& expected) {
  const auto& metadata = file.metadata();
  const std::string path = file.path().string();
  const auto version = metadata.find("stuffed.state");
  check(version != metadata.end(), Error::Kind::Input,
        "{}: is not a saved state (made by --save-state)", path);
  check(version->second == kVersion, Error::Kind::Input,
        "{}: saved state of version {}, this build reads version {}", path, version->second,
        kVersion);
  for (const auto& [name, value] : fields(expected)) {
    const auto found = metadata.find(name);
    check(found != metadata.end() && found->second == value, Error::Kind::Input,
          "{}: {} of the saved state is '{}', this run's is '{}'; a state continues only the run "
          "that made it",
          path, name, found == metadata.end() ? "missing" : found->second, value);
  }
}

int64_t read_position(const io::TensorFile& file) {
  const auto text = file.metadata().find("position");
  int64_t position = -1;
  check(text != file.metadata().end(), Error::Kind::Input, "{}: saved state without a position",
        file.path().string());
  const char* const end = text->second.data() + text->second.size();
  const auto [rest, error] = std::from_chars(text->second.data(), end, position);
  check(error == std::errc() && rest == end && position >= 0, Error::Kind::Input,
        "{}: the saved state's position is '{}', expected a number of tokens", file.path().string(),
        text->second);
  return position;
}

}  // namespace

void save_state(const std::filesystem::path& path, const SavedState& saved, const StateTag& tag) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    if (tensor.defined())
      tensors.emplace_back(name, tensor.to(at::kCPU).contiguous());
  };
  for (size_t i = 0; i < saved.state.layers.size(); ++i) {
    const LayerState& layer = saved.state.layers[i];
    add(slot_prefix(i) + "recurrent", layer.recurrent);
    add(slot_prefix(i) + "conv", layer.conv);
    add(slot_prefix(i) + "shift", layer.shift);
    for (const auto& [slot, tensor] : layer.extra)
      add(slot_prefix(i) + "extra." + slot, tensor);
  }
  add("last_hidden", saved.last_hidden);
  auto metadata = fields(tag);
  metadata["stuffed.state"] = kVersion;
  metadata["position"] = std::to_string(saved.state.position);
  io::write_safetensors(path, tensors, metadata);
}

SavedState load_state(const std::filesystem::path& path,
                      const StateTag& expected,
                      const RecurrentLM& model) {
  const io::TensorFile file = io::TensorFile::open(path);
  check_tag(file, expected);
  SavedState saved;
  saved.state = model.initial_state(1);
  saved.state.position = read_position(file);
  for (size_t i = 0; i < saved.state.layers.size(); ++i) {
    LayerState& layer = saved.state.layers[i];
    const std::string prefix = slot_prefix(i);
    for (const auto& [name, home] :
         {std::pair{"recurrent", &layer.recurrent}, {"conv", &layer.conv}, {"shift", &layer.shift}})
      if (home->defined())
        *home = checked(file, prefix + name, *home);
    // A mitigation checks its own slots when it meets them; their shapes depend on how far it got.
    for (const auto& [name, entry] : file.entries())
      if (name.starts_with(prefix + "extra."))
        layer.extra[name.substr(prefix.size() + 6)] =
            file.load(name).to(model.device(), entry.dtype, /*non_blocking=*/false, /*copy=*/true);
  }
  const auto options = at::TensorOptions().dtype(model.dtype()).device(model.device());
  saved.last_hidden = checked(file, "last_hidden", at::empty({1, model.config().d_model}, options));
  return saved;
}

}  // namespace stuffed
