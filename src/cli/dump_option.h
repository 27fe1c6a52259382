// The notation of --dump.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace stuffed::cli {

struct DumpSelection {
  std::vector<int64_t> positions, layers, heads;  // layers, heads: empty if not given
};

/// "POSITIONS[:LAYERS[:HEADS]]", each sizes and ranges as parse_sizes() reads them. In a range
/// FIRST..LAST:STEP the colon belongs to the range.
/// Errors  Usage
DumpSelection parse_dump(std::string_view text);

}  // namespace stuffed::cli
