#include "checkpoint.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

const io::json* find_key(const io::json& config, std::initializer_list<const char*> keys) {
  if (!config.is_object())
    return nullptr;
  for (const char* key : keys)
    if (const auto found = config.find(key); found != config.end() && !found->is_null())
      return &*found;
  return nullptr;
}

/// Files that ChatRWKV converted hold texts and numbers beside the tensors, which the container's
/// reader refuses before anyone sees a tensor name: say here what such a file is.
io::TensorFile open_weights(const std::filesystem::path& path) {
  try {
    return io::TensorFile::open(path);
  } catch (const Error& error) {
    for (const char* key : kChatRwkvKeys)
      if (std::string_view(error.what()).find(fmt::format("\"{}\" is ", key)) !=
          std::string_view::npos)
        fail_chat_rwkv(path, key);
    throw;
  }
}

}  // namespace

void fail_chat_rwkv(const std::filesystem::path& path, std::string_view key) {
  fail(Error::Kind::Input,
       "{}: key '{}' says that ChatRWKV converted this file: its weights are transposed and "
       "rescaled; use the original download",
       path.string(), key);
}

Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  const std::filesystem::path weights = io::find_weights(path);
  Checkpoint checkpoint{
      .path = path, .weights = open_weights(weights), .config = nullptr, .config_path = {}};
  for (const char* name : {"config.json", "params.json"}) {
    const auto config = weights.parent_path() / name;
    std::error_code ignored;
    if (std::filesystem::exists(config, ignored)) {
      checkpoint.config = io::read_json(config);
      checkpoint.config_path = config;
      check(checkpoint.config.is_object(), Error::Kind::Input, "{}: holds no JSON object",
            config.string());
      break;
    }
  }
  return checkpoint;
}

int64_t count_layers(const io::TensorFile& weights, std::string_view prefix) {
  int64_t count = 0;
  for (const auto& [name, entry] : weights.entries()) {
    if (!name.starts_with(prefix))
      continue;
    int64_t index = -1;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + prefix.size(), end, index);
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == '.')
      count = std::max(count, index + 1);
  }
  // Every layer has tensors: an index beyond their number is damage, and must not size anything.
  check(count <= static_cast<int64_t>(weights.entries().size()), Error::Kind::Input,
        "{}: tensors '{}{}.…' number layers beyond the tensors there are", weights.path().string(),
        prefix, count - 1);
  return count;
}

const std::string* find_name(const io::TensorFile& weights, std::string_view part) {
  for (const auto& [name, entry] : weights.entries())
    if (name.find(part) != std::string::npos)
      return &name;
  return nullptr;
}

const std::vector<int64_t>& shape_of(const Checkpoint& checkpoint,
                                     const std::string& name,
                                     size_t dims) {
  const auto& entries = checkpoint.weights.entries();
  const auto entry = entries.find(name);
  check(entry != entries.end(), Error::Kind::Input,
        "{}: tensor '{}' is missing; is the file complete?", checkpoint.weights.path().string(),
        name);
  check(entry->second.shape.size() == dims, Error::Kind::Input,
        "{}: tensor '{}' has {} axes, expected {}", checkpoint.weights.path().string(), name,
        entry->second.shape.size(), dims);
  return entry->second.shape;
}

std::optional<int64_t> config_int(const io::json& config, std::initializer_list<const char*> keys) {
  const io::json* value = find_key(config, keys);
  if (!value || !value->is_number_integer())
    return std::nullopt;
  // Beyond int64 nothing fits any tensor: the largest number says so, where a cast would wrap.
  if (value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return std::numeric_limits<int64_t>::max();
  return value->get<int64_t>();
}

double config_number(const io::json& config,
                     std::initializer_list<const char*> keys,
                     double otherwise) {
  const io::json* value = find_key(config, keys);
  return value && value->is_number() ? value->get<double>() : otherwise;
}

bool config_bool(const io::json& config, std::initializer_list<const char*> keys, bool otherwise) {
  const io::json* value = find_key(config, keys);
  return value && value->is_boolean() ? value->get<bool>() : otherwise;
}

void check_config(const Checkpoint& checkpoint,
                  std::initializer_list<const char*> keys,
                  int64_t from_tensors) {
  for (const char* key : keys) {
    const io::json* found = find_key(checkpoint.config, {key});
    check(!found || found->is_number_integer(), Error::Kind::Input,
          "{}: {} is {}, expected a whole number ({}, by the tensors of {})",
          checkpoint.config_path.string(), key, found ? found->dump().substr(0, 60) : "",
          from_tensors, checkpoint.weights.path().string());
    const auto value = config_int(checkpoint.config, {key});
    check(!value || *value == from_tensors, Error::Kind::Input,
          "{}: {} is {}, but the tensors of {} say {}; these files do not belong together",
          checkpoint.config_path.string(), key, value.value_or(0),
          checkpoint.weights.path().string(), from_tensors);
  }
}

int64_t true_vocab(const Checkpoint& checkpoint, int64_t rows) {
  const io::json* given = find_key(checkpoint.config, {"vocab_size"});
  check(!given || given->is_number_integer(), Error::Kind::Input,
        "{}: vocab_size is {}, expected a whole number", checkpoint.config_path.string(),
        given ? given->dump().substr(0, 60) : "");
  int64_t vocab = config_int(checkpoint.config, {"vocab_size"}).value_or(rows);
  check(vocab > 0 && vocab <= rows, Error::Kind::Input,
        "{}: vocab_size is {}, but the embedding has {} rows; these files do not belong together",
        checkpoint.config_path.string(), vocab, rows);
  if (vocab == 50280 || vocab == 50288)
    vocab = 50277;
  return vocab;
}

}  // namespace stuffed
