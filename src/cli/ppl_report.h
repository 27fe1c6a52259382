// What ppl-by-length shows: at the end, a table with bars.
#pragma once
#include <string>

#include "stuffed/io/json.h"

namespace stuffed::cli {

/// At most 32 rows, evenly spread over the buckets; the bar's length is the mean loss.
std::string ppl_table(const io::json& summary);

}  // namespace stuffed::cli
