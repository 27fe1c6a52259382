#include "character_bpe.h"

#include "src/io/utf8.h"

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

size_t CharacterBpe::last_cut(std::string_view text, const PieceCut& whole) const {
  size_t end = text.size();  // of the character at `at`
  for (size_t at = end; at > 0; end = at) {
    at = code_point_before(text, at);
    if (at == 0)
      break;
    if (whole.may_continue(text[at]) || whole.may_end(text[at - 1]))
      continue;
    const size_t before = code_point_before(text, at);
    if (!merges_.joins(last_symbol(text.substr(before, at - before)),
                       first_symbol(text.substr(at, end - at))))
      return at;
  }
  return 0;
}

int32_t CharacterBpe::first_symbol(std::string_view character) const {
  const char32_t value = first_code_point(character).value;
  const PairTable::Entry* found = find(value == U' ' ? U'\u2581' : value);
  const char byte = value == U' ' ? kSpace.front() : character.front();
  return found != nullptr ? found->product : byte_ids_[static_cast<unsigned char>(byte)];
}

int32_t CharacterBpe::last_symbol(std::string_view character) const {
  const char32_t value = first_code_point(character).value;
  const PairTable::Entry* found = find(value == U' ' ? U'\u2581' : value);
  const char byte = value == U' ' ? kSpace.back() : character.back();
  return found != nullptr ? found->product : byte_ids_[static_cast<unsigned char>(byte)];
}

}  // namespace stuffed::io
