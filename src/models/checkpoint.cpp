#include "checkpoint.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

/// Parsed, hostile JSON takes some twenty times its size.
constexpr int64_t kMostConfigBytes = int64_t{16} << 20;

/// What wraps a module for training puts before the names of all in it: torch.compile,
/// DistributedDataParallel, DeepSpeed, FSDP and activation checkpointing.
constexpr std::array<std::string_view, 5> kWrappers = {"_orig_mod.", "module.", "_forward_module.",
                                                       "_fsdp_wrapped_module.",
                                                       "_checkpoint_wrapped_module."};

/// Takes the wrappers' words off the front of a name, and those that can be nothing else out of its
/// middle; they are added to `found`, stacked as they were.
std::string unwrapped(std::string name, std::set<std::string>& found) {
  std::string stack;
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : kWrappers)
      if (name.starts_with(wrapper)) {
        stack += wrapper;
        name.erase(0, wrapper.size());
        again = true;
      }
  }
  if (!stack.empty())
    found.insert(stack);
  for (const std::string_view wrapper : kWrappers) {
    const std::string inside = fmt::format(".{}", wrapper);
    for (size_t at = 0; wrapper[0] == '_' && (at = name.find(inside)) != std::string::npos;) {
      name.erase(at + 1, wrapper.size());
      found.emplace(wrapper);
    }
  }
  return name;
}

/// The same tensors without the wrappers' prefixes, and what to say of it if there were any.
io::TensorFile unwrapped(const io::TensorFile& tensors, std::vector<std::string>& warnings) {
  std::set<std::string> found;
  const io::TensorFile renamed =
      tensors.renamed([&](const std::string& name) { return unwrapped(name, found); });
  if (found.empty())
    return tensors;
  warnings.push_back(
      fmt::format("{}: names are behind the prefix '{}', which wrappers for training leave; it was "
                  "taken off",
                  tensors.path().string(), fmt::join(found, "', '")));
  return renamed;
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

OpenCheckpoint OpenCheckpoint::open(const std::filesystem::path& path, const Reading& reading) {
  const std::filesystem::path weights = io::find_weights(path);
  std::vector<std::string> warnings;
  const io::TensorFile tensors = unwrapped(open_weights(weights), warnings);
  OpenCheckpoint opened{.checkpoint = {.path = path,
                                       .weights = tensors.directory(),
                                       .reading = reading,
                                       .warnings = warnings},
                        .tensors = tensors};
  for (const char* name : {"config.json", "params.json"}) {
    const auto config = weights.parent_path() / name;
    std::error_code ignored;
    if (std::filesystem::exists(config, ignored)) {
      opened.checkpoint.config = io::read_json(config, kMostConfigBytes);
      opened.checkpoint.config_path = config;
      check(opened.checkpoint.config.is_object(), Error::Kind::Input, "{}: holds no JSON object",
            config.string());
      break;
    }
  }
  return opened;
}

int64_t count_layers(const io::TensorDirectory& weights, std::string_view prefix) {
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

const std::string* find_name(const io::TensorDirectory& weights, std::string_view part) {
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

bool head_is_tied(const Checkpoint& checkpoint,
                  std::initializer_list<std::string_view> keys,
                  const std::string& embedding,
                  const std::string& head) {
  const ConfigValues config(checkpoint);
  for (const std::string_view key : keys)
    config.check(config.flag(key).value_or(true) || checkpoint.weights.has(head),
                 "{} is false, but there is no tensor '{}' in {}; is the file complete?", key, head,
                 checkpoint.weights.path().string());
  const auto& entries = checkpoint.weights.entries();
  const auto found = entries.find(head);
  return found == entries.end() || found->second.storage == entries.at(embedding).storage;
}

int64_t true_vocab(const Checkpoint& checkpoint, int64_t rows) {
  const ConfigValues config(checkpoint);
  const int64_t vocab = config.integer("vocab_size").value_or(rows);
  config.check(
      vocab > 0 && vocab <= rows,
      "vocab_size is {}, but the embedding has {} rows; these files do not belong together", vocab,
      rows);
  if (const auto ids = checkpoint.reading.tokenizer_ids; ids && *ids > 0 && *ids <= rows)
    return *ids;
  return vocab == 50280 || vocab == 50288 ? 50277 : vocab;
}

}  // namespace stuffed
