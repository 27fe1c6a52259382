// A token file, as `stuffed tokenize -o` makes it and --tokens reads it, written a piece at a time.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "stuffed/io/atomic_file.h"

namespace stuffed::io {

/// safetensors with `tokens` [documents, N] i64. Memory does not grow with the tokens; the file
/// appears with commit().
class TokenFileWriter {
 public:
  /// Errors  Output if the file cannot be made there
  TokenFileWriter(const std::filesystem::path& path, std::map<std::string, std::string> metadata);

  void add(std::span<const int32_t> ids);
  /// Returns the document's number of tokens. All documents must have the same; the caller checks.
  int64_t end_document();
  void commit();

 private:
  /// Always of one size, so that it can be written when all tokens are.
  std::string header(int64_t documents, int64_t length) const;

  std::map<std::string, std::string> metadata_;
  AtomicFile file_;
  int64_t documents_ = 0, length_ = 0, tokens_ = 0;  // length_ of the last document ended
};

}  // namespace stuffed::io
