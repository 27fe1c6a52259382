// Parts of the tables that commands show at the end.
#pragma once
#include <string>
#include <string_view>

#include "stuffed/io/json.h"

namespace stuffed::cli {

/// Four digits, or `missing` for null.
std::string cell(const io::json& value, std::string_view missing);

/// A bar of at most 30 columns for a share of 0 to 1.
std::string bar(double share);

/// A line that counts them, or "" if there are none.
std::string skipped_documents(const io::json& summary);

}  // namespace stuffed::cli
