#include "neox_split.h"

#include "src/io/utf8.h"
#include "unicode.h"

namespace stuffed::io {

namespace {

CharClass class_at(std::string_view text, size_t at, size_t& bytes) {
  const auto byte = static_cast<unsigned char>(text[at]);
  bytes = 1;
  if (byte < 0x80) {
    if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z')
      return CharClass::Letter;
    if (byte >= '0' && byte <= '9')
      return CharClass::Number;
    return byte == ' ' || (byte >= 9 && byte <= 13) ? CharClass::Space : CharClass::Other;
  }
  const CodePoint next = first_code_point(text.substr(at));
  bytes = static_cast<size_t>(next.bytes);
  return char_class(next.value);
}

size_t end_of_run(std::string_view text, size_t at, CharClass wanted) {
  for (size_t bytes = 0; at < text.size(); at += bytes)
    if (class_at(text, at, bytes) != wanted)
      break;
  return at;
}

size_t contraction_bytes(std::string_view text) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(ending))
      return ending.size();
  return 0;
}

}  // namespace

size_t neox_word_bytes(std::string_view text) {
  if (text[0] == '\'')
    if (const size_t bytes = contraction_bytes(text); bytes > 0)
      return bytes;
  const size_t begin = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  size_t bytes = 0;
  const CharClass first = class_at(text, begin, bytes);
  if (first != CharClass::Space)
    return end_of_run(text, begin + bytes, first);

  // \s+(?!\S): a run of white space that ends before a word leaves its last character to what
  // follows.
  size_t at = 0, last = 0;
  while (at < text.size() && class_at(text, at, bytes) == CharClass::Space) {
    last = at;
    at += bytes;
  }
  return at == text.size() || last == 0 ? at : last;
}

}  // namespace stuffed::io
