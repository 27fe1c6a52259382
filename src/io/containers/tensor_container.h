// What each container format yields: where every named tensor lies in the mapped file.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

#include "mapped_file.h"

namespace stuffed::io {

constexpr size_t kMaxDims = 16;

/// The CRC-32 that a container keeps of some of its bytes; looked at once, when they are first
/// read.
class StoredChecksum {
 public:
  StoredChecksum(std::string what, size_t offset, size_t size, uint32_t crc)
      : what_(std::move(what)), offset_(offset), size_(size), crc_(crc) {}
  /// Errors  Input, naming the file and the entry, if the bytes have another
  void verify(const MappedFile& file);

 private:
  std::string what_;
  size_t offset_, size_;
  uint32_t crc_;
  std::once_flag once_;
};

struct StoredTensor {
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;  // in elements, >= 0
  at::ScalarType dtype;
  std::string storage;  // tensors with equal `storage` share memory
  size_t offset = 0;    // of the first element, from the start of the file
  size_t extent = 0;    // bytes from there to the end of the last element; inside the file
  bool is_alias = false;
  std::shared_ptr<StoredChecksum> checksum = nullptr;  // of the bytes it lies in, if they have one
};

struct TensorContainer {
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Both throw Input, naming the file, unless the file is whole and well-formed.
TensorContainer read_safetensors(const MappedFile& file);
TensorContainer read_torch_zip(const MappedFile& file);

/// Element types by safetensors' names ("BF16"), both ways; none if this project does not know it.
std::optional<at::ScalarType> dtype_of(std::string_view safetensors_name);
std::optional<std::string_view> safetensors_name(at::ScalarType dtype);

/// Product of the sizes; none if it, or that of the non-zero sizes alone (which the strides need),
/// does not fit 62 bits, so that a multiple by an element's bytes is still checked easily.
std::optional<int64_t> element_count(std::span<const int64_t> shape);
std::vector<int64_t> contiguous_strides(std::span<const int64_t> shape);

}  // namespace stuffed::io
