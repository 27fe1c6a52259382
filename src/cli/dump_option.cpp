#include "src/cli/dump_option.h"

#include <algorithm>

#include "src/cli/options.h"
#include "stuffed/core/error.h"

namespace stuffed::cli {

namespace {

/// Cuts at the colons that are no range's.
std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  bool in_range = false;  // FIRST..LAST was read, and its colon not yet
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with(".."))
      in_range = true;
    if (text[i] == ':' && !in_range) {
      parts.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    } else if (text[i] == ':' || text[i] == ',') {
      in_range = false;
    }
  }
  parts.push_back(text.substr(begin));
  return parts;
}

}  // namespace

DumpSelection parse_dump(std::string_view text) {
  const std::vector<std::string_view> parts = split(text);
  check(parts.size() <= 3, Error::Kind::Usage,
        "--dump {}: expected POSITIONS[:LAYERS[:HEADS]], such as 8K,20K:38:0..7:1", text);
  DumpSelection chosen;
  chosen.positions = parse_sizes(parts[0], "--dump");
  if (parts.size() > 1)
    chosen.layers = parse_sizes(parts[1], "--dump");
  if (parts.size() > 2)
    chosen.heads = parse_sizes(parts[2], "--dump");
  check(std::ranges::min(chosen.positions) > 0, Error::Kind::Usage,
        "--dump {}: a position counts the tokens read, at least 1", text);
  return chosen;
}

}  // namespace stuffed::cli
