// A comparison as text.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "stuffed/eval/compare.h"

namespace stuffed::cli {

struct CompareReport {
  std::filesystem::path a, b;
  const eval::ResultComparison& found;
  std::vector<std::string> failures;  // of --fail-above, --atol and --rtol
};

/// For a comment: the settings that differ, what failed, and a table, its rows thinned out to 32.
std::string compare_markdown(const CompareReport& report);
/// Every row, under a line of names; what does not exist is empty.
std::string compare_csv(const CompareReport& report);
/// One object, with every row.
io::json compare_json(const CompareReport& report);

}  // namespace stuffed::cli
