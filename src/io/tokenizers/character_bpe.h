// Byte-pair encoding of characters, as SentencePiece has it: a space is spelled U+2581, and a
// character that has no token becomes the tokens of its UTF-8 bytes.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "bpe_merge.h"
#include "piece_cut.h"

namespace stuffed::io {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, how tokens spell a space

/// From text to the first-stage symbols of a BpeEncoder.
class CharacterBpe {
 public:
  void set_byte(int byte, int32_t id) { byte_ids_[static_cast<size_t>(byte)] = id; }
  void add_character(char32_t character, int32_t id);
  /// `left` and `right` are what the merge's tokens spell: UTF-8, not empty. Of no effect if the
  /// characters that would meet have no tokens: the text never comes to it. Characters go first.
  void add_merge(const BpeMerge& merge,
                 int32_t rank,
                 std::string_view left,
                 std::string_view right);

  /// Appends the symbols of `text`, which must be UTF-8.
  void push(std::string_view text, BpeEncoder& encoder) const;
  const BpeMerges& merges() const { return merges_; }
  /// The last place of a text that goes on where it can be cut, 0 if there is none: no merge joins
  /// the characters there, and none of the tokens `whole` knows of reaches across or ends.
  size_t last_cut(std::string_view text, const PieceCut& whole) const;

 private:
  int32_t first_symbol(std::string_view character) const;
  int32_t last_symbol(std::string_view character) const;
  const PairTable::Entry* find(char32_t character) const {
    return characters_.find(0, static_cast<int32_t>(character));
  }

  std::array<int32_t, 256> byte_ids_{};
  PairTable characters_;  // (0, code point) -> the token of that character alone
  BpeMerges merges_;
};

}  // namespace stuffed::io
