// JSON as model files really hold it: Infinity, -Infinity and NaN literals, and {"__float__":
// "Infinity"}.
#pragma once
#include <filesystem>
#include <string_view>

#include <nlohmann/json.hpp>

namespace stuffed::io {

using nlohmann::json;

/// Parses text; the literals above become doubles. Nesting deeper than 256 is refused.
/// Errors  Input, naming `where` and the byte, if it is not JSON
json parse_json(std::string_view text, std::string_view where);

/// Null for what JSON has no number for.
json number_or_null(double value);

/// Reads and parses a whole file (at most `max_bytes`). Throws Input.
json read_json(const std::filesystem::path& path, int64_t max_bytes = int64_t{1} << 30);

}  // namespace stuffed::io
