// PyTorch's zip container: <folder>/data.pkl names the tensors, <folder>/data/<key> are the
// storages they view.
#include <algorithm>

#include "pickle.h"
#include "src/io/utf8.h"
#include "stuffed/core/shown.h"
#include "tensor_container.h"
#include "zip_directory.h"

namespace stuffed::io {
namespace {

using Entries = std::map<std::string, ZipEntry, std::less<>>;

/// "<folder>/", from the one entry named <folder>/data.pkl.
std::string find_folder(const MappedFile& file, const Entries& entries) {
  std::vector<std::string> folders;
  for (const auto& [name, entry] : entries)
    if (name.ends_with("/data.pkl") && name.find('/') == name.rfind('/'))
      folders.push_back(name.substr(0, name.find('/') + 1));
  check(folders.size() == 1, Error::Kind::Input,
        "{}: a zip archive of {} entries, {} of them named <folder>/data.pkl, expected one: not a "
        "file that torch.save wrote",
        file.name(), entries.size(), folders.size());
  const std::string& folder = folders.front();
  check(!entries.contains(folder + "constants.pkl"), Error::Kind::Input,
        "{}: a TorchScript program, not weights; save its state_dict() with torch.save",
        file.name());
  if (const auto order = entries.find(folder + "byteorder"); order != entries.end()) {
    const auto bytes = file.bytes().subspan(order->second.offset, order->second.size);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    check(text == "little", Error::Kind::Input, "{}: byte order {}, expected \"little\"",
          file.name(), shown(text));
  }
  return folder;
}

/// Elements from the first one to the last one's end, or none on overflow.
std::optional<int64_t> extent_of(const PickledTensor& tensor) {
  int64_t extent = 1;
  for (size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    int64_t step = 0;
    if (tensor.shape[axis] == 0)
      return 0;
    if (__builtin_mul_overflow(tensor.shape[axis] - 1, tensor.stride[axis], &step) ||
        __builtin_add_overflow(extent, step, &extent))
      return std::nullopt;
  }
  return extent;
}

/// Null where the archive keeps none.
std::shared_ptr<StoredChecksum> checksum_of(const std::string& name, const ZipEntry& entry) {
  return entry.crc == 0
             ? nullptr
             : std::make_shared<StoredChecksum>(name, entry.offset, entry.size, entry.crc);
}

StoredTensor locate(const MappedFile& file, const PickledTensor& tensor, const ZipEntry& storage) {
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(tensor.dtype));
  check(tensor.storage_count <= static_cast<int64_t>(storage.size) / element_bytes,
        Error::Kind::Input, "{}: storage {} holds {} bytes, too few for {} elements of type {}",
        file.name(), shown(tensor.storage_key), storage.size, tensor.storage_count,
        c10::toString(tensor.dtype));
  const auto count = element_count(tensor.shape);
  const auto extent = extent_of(tensor);
  check(count && extent && *extent <= tensor.storage_count &&
            tensor.storage_offset <= tensor.storage_count - *extent,
        Error::Kind::Input,
        "{}: tensor {} of shape {}, strides {} and offset {} lies outside its storage of {} "
        "elements",
        file.name(), shown(tensor.name), tensor.shape, tensor.stride, tensor.storage_offset,
        tensor.storage_count);
  // An expanded view may have more elements than its storage, but a copy of it must stay in the
  // size class of the file.
  check(*count <= static_cast<int64_t>(file.bytes().size()) / element_bytes, Error::Kind::Input,
        "{}: tensor {} of shape {} has more bytes than the whole file", file.name(),
        shown(tensor.name), tensor.shape);
  return {.shape = tensor.shape,
          .stride = tensor.stride,
          .dtype = tensor.dtype,
          .storage = std::string(tensor.storage_key),
          .offset = storage.offset + static_cast<size_t>(tensor.storage_offset * element_bytes),
          .extent = static_cast<size_t>(*extent * element_bytes)};
}

}  // namespace

TensorContainer read_torch_zip(const MappedFile& file) {
  const Entries entries = read_zip_directory(file);
  const std::string folder = find_folder(file, entries);
  const ZipEntry& pickle = entries.find(folder + "data.pkl")->second;
  if (const auto checksum = checksum_of(folder + "data.pkl", pickle))
    checksum->verify(file);
  TensorContainer container;
  std::map<std::string, std::shared_ptr<StoredChecksum>, std::less<>> checksums;  // by storage
  for (const PickledTensor& tensor :
       read_state_dict(file.bytes().subspan(pickle.offset, pickle.size), file.name())) {
    check(find_invalid_utf8(tensor.name) == std::string_view::npos, Error::Kind::Input,
          "{}: the name {} is not UTF-8", file.name(), shown(tensor.name));
    constexpr size_t kMaxKeyBytes = 64;  // torch counts: "0", "1", ...
    check(tensor.storage_key.size() <= kMaxKeyBytes, Error::Kind::Input,
          "{}: tensor {} has a storage key of {} bytes", file.name(), shown(tensor.name),
          tensor.storage_key.size());
    const auto storage = entries.find(fmt::format("{}data/{}", folder, tensor.storage_key));
    check(storage != entries.end(), Error::Kind::Input,
          "{}: the zip archive lacks the storage {} of tensor {}", file.name(),
          shown(tensor.storage_key), shown(tensor.name));
    StoredTensor stored = locate(file, tensor, storage->second);
    const auto [checksum, is_new] = checksums.try_emplace(std::string(tensor.storage_key));
    if (is_new)
      checksum->second = checksum_of(storage->first, storage->second);
    stored.checksum = checksum->second;
    container.tensors.emplace(tensor.name, std::move(stored));
  }
  return container;
}

}  // namespace stuffed::io
