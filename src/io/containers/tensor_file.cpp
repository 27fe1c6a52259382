#include "stuffed/io/tensor_file.h"

#include <cstdint>
#include <set>
#include <utility>

#include <ATen/Functions.h>

#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/json.h"
#include "tensor_container.h"

namespace stuffed::io {
namespace {

struct Location {
  std::shared_ptr<const MappedFile> map;
  size_t offset = 0, extent = 0;  // bytes
  std::shared_ptr<StoredChecksum> checksum;
};

enum class Format { Safetensors, TorchZip, ShardIndex };

/// The content decides. What people mistake for weights gets a message of its own.
Format recognise(const MappedFile& file) {
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  if (text.starts_with("PK"))
    return Format::TorchZip;
  if (file.name().ends_with(".json"))
    return Format::ShardIndex;
  if (text.size() > 8 && text[8] == '{')  // after the header's length
    return Format::Safetensors;
  if (text.starts_with("{"))
    return Format::ShardIndex;
  check(!text.starts_with("\x80\x02"), Error::Kind::Input,
        "{}: a legacy PyTorch file (a bare pickle, as before PyTorch 1.6), which is not read; load "
        "it in PyTorch and save it again with torch.save, or as safetensors",
        file.name());
  check(!text.starts_with("version https://git-lfs"), Error::Kind::Input,
        "{}: a git-lfs pointer, not the file itself; run `git lfs pull`", file.name());
  if (file.name().ends_with(".safetensors"))
    return Format::Safetensors;
  fail(Error::Kind::Input,
       "{}: neither safetensors nor a PyTorch zip nor a shard index (it starts with {})",
       file.name(), shown(text.substr(0, 8)));
}

/// weight_map of an index: tensor name -> shard's file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  constexpr int64_t kMostIndexBytes = int64_t{64} << 20;
  const json index = read_json(path, kMostIndexBytes);
  check(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
        Error::Kind::Input, "{}: a shard index must be an object with a weight_map", path.string());
  std::map<std::string, std::string> result;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    check(shard.is_string(), Error::Kind::Input, "{}: the shard of tensor {} is not a file name",
          path.string(), shown(name));
    auto file = shard.get<std::string>();
    check(!file.empty() && file.find('/') == std::string::npos && file != "." && file != ".." &&
              file.find('\0') == std::string::npos,
          Error::Kind::Input, "{}: the shard {} of tensor {} is not a file beside the index",
          path.string(), shown(file), shown(name));
    result.emplace(name, std::move(file));
  }
  check(!result.empty(), Error::Kind::Input, "{}: its weight_map is empty", path.string());
  return result;
}

/// Keeps the map alive until the last such view is gone.
Tensor view_of(const Location& at, const TensorEntry& entry) {
  const std::byte* first = at.map->bytes().data() + at.offset;
  return at::from_blob(
      const_cast<std::byte*>(first), entry.shape, entry.stride, [map = at.map](void*) {},
      at::TensorOptions().dtype(entry.dtype));
}

Tensor copy_of(const Location& at, const TensorEntry& entry) {
  const size_t element_bytes = c10::elementSize(entry.dtype);
  Tensor elements = at::empty({static_cast<int64_t>(at.extent / element_bytes)},
                              at::TensorOptions().dtype(entry.dtype));
  std::memcpy(elements.mutable_data_ptr(), at.map->bytes().data() + at.offset, at.extent);
  return elements.as_strided(entry.shape, entry.stride);
}

}  // namespace

struct TensorFile::Impl {
  fs::path path;
  std::vector<fs::path> files;
  TensorEntries entries;
  std::map<std::string, Location> locations;
  std::map<std::string, std::string> metadata;

  const Location& locate(const std::string& name) const {
    const auto found = locations.find(name);
    check(found != locations.end(), Error::Kind::Input, "{}: no tensor named {}", path.string(),
          shown(name));
    return found->second;
  }

  void add(const fs::path& file, const std::shared_ptr<const MappedFile>& map, Format format) {
    TensorContainer container =
        format == Format::TorchZip ? read_torch_zip(*map) : read_safetensors(*map);
    for (auto& [name, tensor] : container.tensors) {
      TensorEntry entry{.shape = std::move(tensor.shape),
                        .stride = std::move(tensor.stride),
                        .dtype = tensor.dtype,
                        .storage = fmt::format("{}:{}", files.size(), tensor.storage),
                        .file = file,
                        .is_alias = tensor.is_alias};
      const auto [at, is_new] = entries.try_emplace(name, std::move(entry));
      check(is_new, Error::Kind::Input, "{}: holds the tensor {}, which {} holds too",
            file.string(), shown(name), at->second.file.string());
      locations.emplace(name, Location{.map = map,
                                       .offset = tensor.offset,
                                       .extent = tensor.extent,
                                       .checksum = tensor.checksum});
    }
    files.push_back(file);
    metadata.merge(container.metadata);
  }

  void add_shards() {
    const auto shard_of = read_index(path);
    std::set<std::string> shards;
    for (const auto& [name, shard] : shard_of)
      shards.insert(shard);
    for (const std::string& shard : shards) {
      const fs::path file = path.parent_path() / shard;
      std::error_code error;  // a name too long for the system is no file, either
      const bool is_there = fs::exists(file, error);  // before check()'s other arguments
      check(is_there, Error::Kind::Input,
            "{}: the shard {} that the index names is missing{}; fetch it too", path.string(),
            shown(shard), error ? fmt::format(" ({})", error.message()) : "");
      const auto map = std::make_shared<const MappedFile>(file);
      const Format format = recognise(*map);
      check(format != Format::ShardIndex, Error::Kind::Input, "{}: the shard {} is itself an index",
            path.string(), shown(shard));
      add(file, map, format);
    }
    for (const auto& [name, shard] : shard_of) {
      const auto found = entries.find(name);
      check(found != entries.end() && found->second.file.filename() == shard, Error::Kind::Input,
            "{}: the index says that {} holds the tensor {}; it is in {}", path.string(),
            shown(shard), shown(name),
            found == entries.end() ? "no shard" : found->second.file.filename().string());
    }
    for (const auto& [name, entry] : entries)
      check(shard_of.contains(name) || entry.is_alias, Error::Kind::Input,
            "{}: the shard {} holds the tensor {}, which the index lacks", path.string(),
            entry.file.filename().string(), shown(name));
  }
};

TensorFile TensorFile::open(const fs::path& path) {
  const auto impl = std::make_shared<Impl>();
  impl->path = path;
  const auto map = std::make_shared<const MappedFile>(path);
  if (const Format format = recognise(*map); format != Format::ShardIndex) {
    impl->add(path, map, format);
  } else {
    impl->files.push_back(path);
    impl->add_shards();
  }
  TensorFile file;
  file.impl_ = impl;
  return file;
}

TensorFile TensorFile::renamed(const std::function<std::string(const std::string&)>& rename) const {
  const auto impl = std::make_shared<Impl>(*impl_);
  impl->entries.clear();
  impl->locations.clear();
  for (const auto& [name, entry] : impl_->entries) {
    const std::string now = rename(name);
    check(impl->entries.emplace(now, entry).second, Error::Kind::Input,
          "{}: the tensor {} and another are both {} without their prefixes", path().string(),
          shown(name), shown(now));
    impl->locations.emplace(now, impl_->locations.at(name));
  }
  TensorFile file;
  file.impl_ = impl;
  return file;
}

TensorDirectory TensorFile::directory() const {
  return {path(), std::shared_ptr<const TensorEntries>(impl_, &impl_->entries)};
}

const TensorEntries& TensorFile::entries() const {
  return impl_->entries;
}

bool TensorFile::has(const std::string& name) const {
  return impl_->entries.contains(name);
}

Tensor TensorFile::load(const std::string& name) const {
  const Location& at = impl_->locate(name);
  const TensorEntry& entry = impl_->entries.at(name);
  if (at.checksum)
    at.checksum->verify(*at.map);
  if (at.extent == 0)
    return at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype));
  // A byte other than 0 and 1 is no C++ bool.
  if (entry.dtype == at::kBool) {
    TensorEntry bytes = entry;
    bytes.dtype = at::kByte;
    return view_of(at, bytes).ne(0);
  }
  const auto address = reinterpret_cast<uintptr_t>(at.map->bytes().data() + at.offset);
  const bool is_aligned = address % c10::elementSize(entry.dtype) == 0;
  return is_aligned ? view_of(at, entry) : copy_of(at, entry);
}

void TensorFile::release(const std::string& name) const {
  const Location& at = impl_->locate(name);
  at.map->release(at.offset, at.extent);
}

const std::map<std::string, std::string>& TensorFile::metadata() const {
  return impl_->metadata;
}

const std::vector<fs::path>& TensorFile::files() const {
  return impl_->files;
}

const fs::path& TensorFile::path() const {
  return impl_->path;
}

}  // namespace stuffed::io
