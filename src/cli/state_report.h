// What state-stats shows at the end.
#pragma once
#include <string>

#include "stuffed/io/json.h"

namespace stuffed::cli {

/// The sampled states in at most 32 rows, then the heads that explode.
std::string state_table(const io::json& summary);

}  // namespace stuffed::cli
