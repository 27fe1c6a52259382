#include "unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utf8proc.h>
#include <vector>

#include "src/io/utf8.h"
#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

struct NewRange {
  char32_t first, last;
  CharClass value;
};

// Letters and numbers that Unicode 15.1 and 16 added: Debian's utf8proc knows 15.0, the
// `tokenizers` package 16. Source: DerivedAge.txt and DerivedGeneralCategory.txt of Unicode 16.
constexpr NewRange kNewRanges[] = {
    {0x1C89, 0x1C8A, CharClass::Letter},   {0xA7CB, 0xA7CD, CharClass::Letter},
    {0xA7DA, 0xA7DC, CharClass::Letter},   {0x105C0, 0x105F3, CharClass::Letter},
    {0x10D40, 0x10D49, CharClass::Number}, {0x10D4A, 0x10D65, CharClass::Letter},
    {0x10D6F, 0x10D85, CharClass::Letter}, {0x10EC2, 0x10EC4, CharClass::Letter},
    {0x11380, 0x11389, CharClass::Letter}, {0x1138B, 0x1138B, CharClass::Letter},
    {0x1138E, 0x1138E, CharClass::Letter}, {0x11390, 0x113B5, CharClass::Letter},
    {0x113B7, 0x113B7, CharClass::Letter}, {0x113D1, 0x113D1, CharClass::Letter},
    {0x113D3, 0x113D3, CharClass::Letter}, {0x116D0, 0x116E3, CharClass::Number},
    {0x11BC0, 0x11BE0, CharClass::Letter}, {0x11BF0, 0x11BF9, CharClass::Number},
    {0x13460, 0x143FA, CharClass::Letter}, {0x16100, 0x1611D, CharClass::Letter},
    {0x16130, 0x16139, CharClass::Number}, {0x16D40, 0x16D6C, CharClass::Letter},
    {0x16D70, 0x16D79, CharClass::Number}, {0x18CFF, 0x18CFF, CharClass::Letter},
    {0x1CCF0, 0x1CCF9, CharClass::Number}, {0x1E5D0, 0x1E5ED, CharClass::Letter},
    {0x1E5F0, 0x1E5F0, CharClass::Letter}, {0x1E5F1, 0x1E5FA, CharClass::Number},
    {0x2EBF0, 0x2EE5D, CharClass::Letter},
};

// Combining marks that came after Unicode 9. The NFC of the `tokenizers` package, in every release
// so far, does not know that they combine: it neither moves them nor moves other marks across them.
// Models saw text so prepared.
constexpr struct {
  char32_t first, last;
} kUnknownMarks[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};

bool is_unknown_mark(char32_t code_point) {
  const auto* range = std::upper_bound(
      std::begin(kUnknownMarks), std::end(kUnknownMarks), code_point,
      [](char32_t value, const auto& candidate) { return value < candidate.first; });
  return range != std::begin(kUnknownMarks) && code_point <= std::prev(range)->last;
}

CharClass class_of_new(char32_t code_point) {
  const auto* range = std::upper_bound(
      std::begin(kNewRanges), std::end(kNewRanges), code_point,
      [](char32_t value, const NewRange& candidate) { return value < candidate.first; });
  const bool inside = range != std::begin(kNewRanges) && code_point <= std::prev(range)->last;
  return inside ? std::prev(range)->value : CharClass::Other;
}

int combining_class(utf8proc_int32_t code_point) {
  return is_unknown_mark(static_cast<char32_t>(code_point))
             ? 0
             : utf8proc_get_property(code_point)->combining_class;
}

// NFC of a stretch, without the quadratic reordering of utf8proc's own loop.
void append_nfc(std::string_view text, std::vector<utf8proc_int32_t>& scratch, std::string& out) {
  constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  scratch.clear();
  while (!text.empty()) {
    const CodePoint next = first_code_point(text);
    text.remove_prefix(static_cast<size_t>(next.bytes));
    std::array<utf8proc_int32_t, 32> parts{};  // no canonical decomposition is longer than 4
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.value),
                                               parts.data(), parts.size(), kDecompose, nullptr);
    check(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()), Error::Kind::Internal,
          "utf8proc cannot decompose U+{:04X}", static_cast<uint32_t>(next.value));
    scratch.insert(scratch.end(), parts.begin(), parts.begin() + count);
  }
  for (auto begin = scratch.begin(); begin != scratch.end();) {
    const auto is_starter = [](utf8proc_int32_t value) { return combining_class(value) == 0; };
    begin = std::find_if_not(begin, scratch.end(), is_starter);
    const auto end = std::find_if(begin, scratch.end(), is_starter);
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  const auto length = utf8proc_normalize_utf32(
      scratch.data(), static_cast<utf8proc_ssize_t>(scratch.size()), kCompose);
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(static_cast<char32_t>(scratch[static_cast<size_t>(i)]), out);
}

}  // namespace

CharClass char_class(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::Letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::Number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::Space;
    case UTF8PROC_CATEGORY_CC:
      return (code_point >= 9 && code_point <= 13) || code_point == 0x85 ? CharClass::Space
                                                                         : CharClass::Other;
    case UTF8PROC_CATEGORY_CN:
      return class_of_new(code_point);
    default:
      return CharClass::Other;
  }
}

bool is_nfc_plain(char32_t code_point) {
  if (code_point < 0x300)
    return true;
  // Hangul vowels and final consonants compose with what precedes. U+11A7, one before the first
  // final, does not, though utf8proc 2.8 would drop it behind a syllable: as a plain character it
  // is never shown to it so.
  if ((code_point >= 0x1161 && code_point <= 0x1175) ||
      (code_point >= 0x11A8 && code_point <= 0x11C2))
    return false;
  const utf8proc_property_t* property =
      utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point));
  const auto category = property->category;
  const bool mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                    category == UTF8PROC_CATEGORY_ME;
  return (!mark && property->combining_class == 0 && property->decomp_seqindex == UINT16_MAX) ||
         (mark && is_unknown_mark(code_point));
}

std::string_view to_nfc(std::string_view text, std::string& storage) {
  storage.clear();
  std::vector<utf8proc_int32_t> scratch;
  size_t copied = 0;      // everything before it is in `storage`
  size_t last_plain = 0;  // start of the latest plain character
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint next = first_code_point(text.substr(at));
    if (is_nfc_plain(next.value)) {
      last_plain = at;
      at += static_cast<size_t>(next.bytes);
      continue;
    }
    // NFC never reaches across the front of a plain character, so this stretch stands alone.
    size_t end = at;
    while (end < text.size()) {
      const CodePoint inside = first_code_point(text.substr(end));
      if (is_nfc_plain(inside.value))
        break;
      end += static_cast<size_t>(inside.bytes);
    }
    storage.append(text, copied, last_plain - copied);
    append_nfc(text.substr(last_plain, end - last_plain), scratch, storage);
    copied = last_plain = at = end;
  }
  if (copied == 0)
    return text;
  storage.append(text, copied);
  return storage;
}

}  // namespace stuffed::io
