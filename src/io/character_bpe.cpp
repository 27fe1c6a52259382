#include "character_bpe.h"

#include "utf8.h"

namespace stuffed::io {

void CharacterBpe::add_character(char32_t character, int32_t id) {
  characters_.insert(0, static_cast<int32_t>(character), 0, id);
}

void CharacterBpe::add_merge(const BpeMerge& merge,
                             int32_t rank,
                             std::string_view left,
                             std::string_view right) {
  size_t last = left.size() - 1;
  while ((static_cast<unsigned char>(left[last]) & 0xC0) == 0x80)
    --last;
  const PairTable::Entry* last_symbol = find(first_code_point(left.substr(last)).value);
  const PairTable::Entry* first_symbol = find(first_code_point(right).value);
  if (last_symbol != nullptr && first_symbol != nullptr)
    merges_.add(merge, rank, last_symbol->product, first_symbol->product);
}

void CharacterBpe::push(std::string_view text, BpeEncoder& encoder) const {
  while (!text.empty()) {
    const CodePoint next = first_code_point(text);
    if (const PairTable::Entry* found = find(next.value == U' ' ? U'\u2581' : next.value))
      encoder.push(found->product);
    else
      for (const char byte : next.value == U' ' ? kSpace : text.substr(0, next.bytes))
        encoder.push(byte_ids_[static_cast<unsigned char>(byte)]);
    text.remove_prefix(static_cast<size_t>(next.bytes));
  }
}

}  // namespace stuffed::io
