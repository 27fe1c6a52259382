// Where a text that comes in pieces may be cut without parting what a tokenizer takes as one.
#pragma once
#include <array>
#include <string_view>

namespace stuffed::io {

/// Knows of the tokens that are looked for in the text before anything else.
class PieceCut {
 public:
  void keep_whole(std::string_view token) {
    for (size_t i = 1; i < token.size(); ++i)
      inside_[static_cast<unsigned char>(token[i])] = true;
    if (!token.empty())
      last_[static_cast<unsigned char>(token.back())] = true;
  }
  /// Whether such a token may go on with this byte.
  bool may_continue(char byte) const { return inside_[static_cast<unsigned char>(byte)]; }
  /// Whether such a token may end with this byte.
  bool may_end(char byte) const { return last_[static_cast<unsigned char>(byte)]; }

 private:
  std::array<bool, 256> inside_{}, last_{};
};

/// Where the code point before `at` begins. The text must be UTF-8, `at` a code point's beginning
/// and not 0.
inline size_t code_point_before(std::string_view text, size_t at) {
  do
    --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace stuffed::io
