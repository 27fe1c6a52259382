// Tensor names and shapes as the families read them: the input says which tensors a checkpoint has.
#include <map>

#include "tests/fuzz/checkpoints.h"

namespace stuffed::fuzz {

std::optional<Checkpoint> described_checkpoint(const io::json& description) {
  constexpr int64_t kMostElements = int64_t{1} << 29;
  if (!description.is_object() || !description.contains("tensors") ||
      !description["tensors"].is_object())
    return std::nullopt;
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, shape] : description["tensors"].items()) {
    if (!shape.is_array())
      return std::nullopt;
    int64_t elements = 1;
    for (const io::json& size : shape)
      if (!size.is_number_unsigned() ||
          size.get<uint64_t>() > static_cast<uint64_t>(kMostElements) ||
          (elements *= size.get<int64_t>()) > kMostElements)
        return std::nullopt;
    shapes[name] = shape.get<std::vector<int64_t>>();
  }
  io::json config = description.value("config", io::json());
  return Checkpoint{.path = "fuzz",
                    .weights = io::TensorDirectory::of_shapes("fuzz", shapes),
                    .config = config.is_object() ? std::move(config) : io::json(),
                    .config_path = "config.json"};
}

Checkpoint corpus_checkpoint(const std::filesystem::path& file) {
  auto checkpoint = described_checkpoint(io::read_json(file));
  if (!checkpoint)
    broken(file.string() + " describes no checkpoint");
  return *std::move(checkpoint);
}

void fuzz_shapes(const uint8_t* data, size_t size) {
  may_refuse([&] {
    const auto checkpoint = described_checkpoint(io::parse_json(as_text(data, size), "shapes"));
    if (!checkpoint)
      return;
    const auto model = unloaded_model(*checkpoint);
    if (model->config().parameters <= 0 || model->state_elements() < model->recurrent_elements())
      broken("a model without parameters or with an impossible state");
  });
}

}  // namespace stuffed::fuzz
