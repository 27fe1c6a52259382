// How messages show texts of files, and numbers of things.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace stuffed {

/// A name or a text from a file: quoted, escaped, cut at 200 bytes.
std::string shown(std::string_view text);

/// "1 file", "2 files": the number with its noun, whose plural adds an s.
std::string counted(int64_t count, std::string_view noun);

}  // namespace stuffed
