// What the tokenizers ask of Unicode: the class of a character in their split pattern, and NFC.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace stuffed::io {

enum class CharClass : uint8_t { Letter, Number, Space, Other };

/// \p{L}, \p{N}, \s (White_Space) or none of these, by Unicode 16 or newer.
CharClass char_class(char32_t code_point);

/// Whether NFC leaves the character alone and it can never merge with what stands before it. Errs
/// on the safe side: false for some that are so, too.
bool is_nfc_plain(char32_t code_point);

/// The text in Normalization Form C. Returns `text` itself if it surely is in that form already,
/// else a view of `storage`. The text must be UTF-8.
std::string_view to_nfc(std::string_view text, std::string& storage);

}  // namespace stuffed::io
