// UTF-8 as the tokenizers need it: where text stops being UTF-8, one code point at a time, and
// back.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace stuffed::io {

struct CodePoint {
  char32_t value;
  int bytes;
};

/// The code point that starts at `text[0]`. The text must be UTF-8 and not empty.
inline CodePoint first_code_point(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80)
    return {lead, 1};
  if (lead < 0xE0)
    return {(lead & 0x1F) << 6 | (byte(1) & 0x3Fu), 2};
  if (lead < 0xF0)
    return {(lead & 0x0F) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu), 3};
  return {
      (lead & 0x07) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu),
      4};
}

void append_utf8(char32_t code_point, std::string& out);

/// Offset of the first byte that does not belong to UTF-8 (overlong forms, surrogates and values
/// beyond U+10FFFF do not), or npos.
size_t find_invalid_utf8(std::string_view text);

/// Checks text that comes in pieces, which may part a code point.
class Utf8Stream {
 public:
  /// Offset of the first byte that does not belong to UTF-8, from the beginning of the first piece,
  /// or npos as long as there is none.
  size_t add(std::string_view piece);
  /// Bytes of a code point whose rest is still to come.
  size_t open_bytes() const { return open_.size(); }
  /// As add(), where the text ends.
  size_t end() const { return open_.empty() ? std::string_view::npos : bytes_ - open_.size(); }

 private:
  size_t bytes_ = 0;  // of all pieces
  std::string open_;
};

/// Throws Input, naming the text and the byte, unless `invalid`, as the functions above found it,
/// is npos.
void check_utf8(size_t invalid, std::string_view where);

/// Each maximal part of a broken sequence becomes one U+FFFD, as Python's errors="replace" has it.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace stuffed::io
