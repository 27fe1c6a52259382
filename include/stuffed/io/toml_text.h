// Values of TOML as the texts that a command line has.
#pragma once
#include <istream>
#include <string>
#include <string_view>
#include <toml++/toml.h>
#include <vector>

namespace stuffed::io {

/// Errors  Input, naming `file`, line and column, if it is not TOML
toml::table parse_toml(std::istream& input, std::string_view file);

/// A string, number or truth; of an array each of its elements.
/// Errors  Usage, naming `file` and `key`, for a table, a date or an array of arrays
std::vector<std::string> toml_texts(const toml::node& node,
                                    std::string_view file,
                                    std::string_view key);

}  // namespace stuffed::io
