// Text that comes in pieces, to token ids, without ever holding all of it.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/io/byte_stream.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::io {

class Utf8Stream;

class TextEncoder {
 public:
  /// `tokenizer` is not owned. `where` is named when the text is not UTF-8, which is looked at if
  /// `checks_utf8`.
  TextEncoder(const Tokenizer& tokenizer, std::string where, bool checks_utf8);
  ~TextEncoder();

  /// Appends the ids that are certain by now.
  /// Errors  Input for text that is not UTF-8
  void add(std::string_view text, std::vector<int32_t>& ids);
  /// The text ends here: appends the ids that are left. Call once.
  void finish(std::vector<int32_t>& ids);

 private:
  const Tokenizer& tokenizer_;
  std::string where_;
  std::unique_ptr<Utf8Stream> utf8_;  // null: any bytes will do
  bool is_first_ = true;
  std::string pending_;
  size_t enough_ = size_t{1} << 16;  // pending bytes that are worth an attempt
};

/// Throws Input if one document has become larger than what may be endless should be.
void check_document_size(const ByteStream& stream, size_t tokens);

}  // namespace stuffed::io
