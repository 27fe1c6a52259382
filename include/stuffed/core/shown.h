// How messages show what comes from a file.
#pragma once
#include <string>
#include <string_view>

namespace stuffed {

/// A name or a text from a file: quoted, escaped, cut at 200 bytes.
std::string shown(std::string_view text);

}  // namespace stuffed
