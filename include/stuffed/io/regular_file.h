// Opening what must be an ordinary file: a pipe would wait for a writer, and a device never ends.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace stuffed::io {

/// A regular file opened for reading; closed with the object.
class RegularFile {
 public:
  /// Never waits, and opens nothing but a regular file (or a link to one).
  /// Errors  Input, naming the file and what it is instead, or why it cannot be read
  explicit RegularFile(const std::filesystem::path& path);
  ~RegularFile();
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;

  int descriptor() const { return descriptor_; }
  int64_t size() const { return size_; }  // bytes, when it was opened

 private:
  int descriptor_ = -1;
  int64_t size_ = 0;
};

/// Errors  Input as RegularFile's, for a reader that opens the file by itself
void check_regular_file(const std::filesystem::path& path);

/// The whole file: the bytes it had when it was opened.
/// Errors  Input if it is no regular file, larger than `max_bytes`, or shorter than it said
std::string read_regular_file(const std::filesystem::path& path,
                              int64_t max_bytes = int64_t{1} << 30);

}  // namespace stuffed::io
