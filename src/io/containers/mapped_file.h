// A file's bytes by read-only memory map, and bounds-checked reading of them.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "stuffed/core/error.h"

namespace stuffed::io {

static_assert(std::endian::native == std::endian::little, "tensor files are little-endian");

class MappedFile {
 public:
  /// Throws Input if it is missing, empty or no regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// Lets the pages of a range leave this process's memory; a later access reads them anew.
  void release(size_t offset, size_t size) const;

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

/// Reads little-endian numbers one after another; running past the end is an Input error that says
/// `what` is truncated.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view file, std::string_view what)
      : bytes_(bytes), file_(file), what_(what) {}

  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take_bytes(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string_view take_text(size_t size) {
    const auto taken = take_bytes(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  std::span<const std::byte> take_bytes(size_t size) {
    check(size <= bytes_.size() - at_, Error::Kind::Input,
          "{}: {} is truncated: {} bytes expected at byte {} of its {}", file_, what_, size, at_,
          bytes_.size());
    at_ += size;
    return bytes_.subspan(at_ - size, size);
  }

  size_t at() const { return at_; }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_, what_;
  size_t at_ = 0;
};

}  // namespace stuffed::io
