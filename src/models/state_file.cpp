#include "stuffed/models/state_file.h"

#include <charconv>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/output_guard.h"
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

std::string slot_prefix(const std::string& prefix, size_t layer) {
  return fmt::format("{}layers.{}.", prefix, layer);
}

/// A tensor of the saved state, checked against the shape and type a fresh state of the model has.
Tensor checked(const TensorsByName& tensors,
               const std::string& name,
               const Tensor& fresh,
               const std::string& where) {
  const auto found = tensors.find(name);
  check(found != tensors.end(), Error::Kind::Input, "{}: saved state without '{}'", where, name);
  const Tensor& tensor = found->second;
  check(tensor.sizes() == fresh.sizes() && tensor.scalar_type() == fresh.scalar_type(),
        Error::Kind::Input, "{}: '{}' is {} [{}], this model's is {} [{}]", where, name,
        at::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "),
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
          "{}: {} of the saved state is '{}', but that of this run is '{}'; a state can be loaded "
          "only with the model and settings that made it",
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

void check_state_place(const std::filesystem::path& path) {
  io::check_place(
      path, [](const io::TensorFile& file) { return file.metadata().contains("stuffed.state"); });
}

void put_state(TensorsByName& tensors, const std::string& prefix, const State& state) {
  const auto put = [&](const std::string& name, const Tensor& tensor) {
    if (tensor.defined())
      tensors[name] = tensor;
  };
  for (size_t i = 0; i < state.layers.size(); ++i) {
    const LayerState& layer = state.layers[i];
    const std::string home = slot_prefix(prefix, i);
    put(home + "recurrent", layer.recurrent);
    put(home + "conv", layer.conv);
    put(home + "shift", layer.shift);
    for (const auto& [slot, tensor] : layer.extra)
      put(home + "extra." + slot, tensor);
  }
}

State take_state(const TensorsByName& tensors,
                 const std::string& prefix,
                 int64_t position,
                 int64_t batch,
                 const RecurrentLM& model,
                 const std::string& where) {
  State state = model.initial_state(batch);
  state.position = position;
  for (size_t i = 0; i < state.layers.size(); ++i) {
    LayerState& layer = state.layers[i];
    const std::string own = slot_prefix(prefix, i), extra = own + "extra.";
    for (const auto& [name, home] :
         {std::pair{"recurrent", &layer.recurrent}, {"conv", &layer.conv}, {"shift", &layer.shift}})
      if (home->defined())
        *home = checked(tensors, own + name, *home, where);
    // A mitigation checks its own slots when it meets them; their shapes depend on how far it got.
    for (auto slot = tensors.lower_bound(extra);
         slot != tensors.end() && slot->first.starts_with(extra); ++slot)
      layer.extra[slot->first.substr(extra.size())] =
          slot->second.to(model.device(), slot->second.scalar_type(), /*non_blocking=*/false,
                          /*copy=*/true);
  }
  return state;
}

void save_state(const std::filesystem::path& path, const SavedState& saved, const StateTag& tag) {
  check_state_place(path);
  TensorsByName tensors;
  put_state(tensors, "", saved.state);
  if (saved.last_hidden.defined())
    tensors["last_hidden"] = saved.last_hidden;
  auto metadata = fields(tag);
  metadata["stuffed.state"] = kVersion;
  metadata["position"] = std::to_string(saved.state.position);
  io::write_safetensors(path, {tensors.begin(), tensors.end()}, metadata);
}

SavedState load_state(const std::filesystem::path& path,
                      const StateTag& expected,
                      const RecurrentLM& model) {
  const io::TensorFile file = io::TensorFile::open(path);
  check_tag(file, expected);
  TensorsByName tensors;
  for (const auto& [name, entry] : file.entries())
    tensors[name] = file.load(name);
  SavedState saved;
  saved.state = take_state(tensors, "", read_position(file), 1, model, path.string());
  const auto options = at::TensorOptions().dtype(model.dtype()).device(model.device());
  saved.last_hidden = checked(tensors, "last_hidden",
                              at::empty({1, model.config().d_model}, options), path.string());
  return saved;
}

}  // namespace stuffed
