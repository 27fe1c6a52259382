// Tensor names and shapes as the families read them: the input says which tensors a checkpoint has.
#include "tests/fuzz/checkpoints.h"

namespace stuffed::fuzz {

std::optional<Checkpoint> sparse_checkpoint(const io::json& description) {
  constexpr int64_t kMostBytes = int64_t{1} << 30;
  if (!description.is_object() || !description.contains("tensors") ||
      !description["tensors"].is_object())
    return std::nullopt;
  io::json header = io::json::object();
  int64_t end = 0;
  for (const auto& [name, shape] : description["tensors"].items()) {
    if (!shape.is_array())
      return std::nullopt;
    int64_t bytes = 2;  // BF16
    for (const io::json& size : shape)
      if (!size.is_number_unsigned() || size.get<uint64_t>() > static_cast<uint64_t>(kMostBytes) ||
          (bytes *= size.get<int64_t>()) > kMostBytes)
        return std::nullopt;
    if ((end += bytes) > kMostBytes)
      return std::nullopt;
    header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {end - bytes, end}}};
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  const MemoryFile file(bytes + text, static_cast<size_t>(end));
  io::json config = description.value("config", io::json());
  return Checkpoint{.path = "fuzz",
                    .weights = io::TensorFile::open(file.path()),
                    .config = config.is_object() ? std::move(config) : io::json(),
                    .config_path = "config.json"};
}

Checkpoint corpus_checkpoint(const std::filesystem::path& file) {
  auto checkpoint = sparse_checkpoint(io::read_json(file));
  if (!checkpoint)
    broken(file.string() + " describes no checkpoint");
  return *std::move(checkpoint);
}

void fuzz_shapes(const uint8_t* data, size_t size) {
  may_refuse([&] {
    const auto checkpoint = sparse_checkpoint(io::parse_json(as_text(data, size), "shapes"));
    if (!checkpoint)
      return;
    const auto model = understand(*checkpoint);
    if (model->config().parameters <= 0 || model->state_elements() < model->recurrent_elements())
      broken("a model without parameters or with an impossible state");
  });
}

}  // namespace stuffed::fuzz
