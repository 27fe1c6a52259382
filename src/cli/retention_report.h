// What retention shows: at the end, two tables.
#pragma once
#include <string>

#include "stuffed/io/json.h"

namespace stuffed::cli {

/// Half-lives by layer, and for each number of tokens read what its suffixes say. A bar's length is
/// the effective remembrance.
std::string retention_table(const io::json& summary);

}  // namespace stuffed::cli
