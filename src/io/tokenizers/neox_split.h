// How GPT-2 and GPT-NeoX cut text into words before byte-pair encoding.
#pragma once
#include <string_view>

namespace stuffed::io {

/// Bytes of the first word of `text` (UTF-8, not empty): the first alternative that matches of
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
/// Source  GPT-2's pattern, with the categories of Unicode 16 whatever version the system's tables
/// have
size_t neox_word_bytes(std::string_view text);

}  // namespace stuffed::io
