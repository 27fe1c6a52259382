#include "src/cli/ppl_report.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include <gtest/gtest.h>

namespace stuffed::cli {
namespace {

constexpr int64_t kBuckets = 1024, kBucket = 32;

io::json summary() {
  io::json summary = {{"bucket_tokens", kBucket}, {"skipped", io::json::array()}};
  for (int64_t b = 0; b < kBuckets; ++b)
    for (const char* field : {"mean_nll_nats", "standard_error_nats", "perplexity"})
      summary[field].push_back(2.0);
  return summary;
}

/// The first column of the rows.
std::vector<int64_t> positions_of(const std::string& table) {
  std::vector<int64_t> positions;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);)
    if (const size_t first = line.find_first_not_of(' ');
        first != line.npos && line.find_first_not_of("0123456789", first) > first)
      positions.push_back(std::stoll(line));
  return positions;
}

TEST(PplTable, RowsAreEvenInTheLogarithmWhereATrainingLengthIsGiven) {
  io::json with = summary();
  with["collapse"] = {{"train_len_tokens", 256}, {"onset_tokens", nullptr}};
  const std::string table = ppl_table(with);
  const std::vector<int64_t> positions = positions_of(table);
  EXPECT_LE(positions.size(), 32u);
  EXPECT_EQ(positions.front(), 0);
  EXPECT_EQ(positions.back(), (kBuckets - 1) * kBucket);
  const auto within = [&](int64_t tokens) {
    return std::ranges::count_if(positions, [=](int64_t at) { return at < tokens; });
  };
  EXPECT_GE(within(256), 6);  // of 8 buckets
  EXPECT_LT(within(16384), std::ssize(positions) - 1);
  EXPECT_NE(table.find("of 1024 buckets of 32 tokens, evenly in the logarithm"), std::string::npos);
}

TEST(PplTable, RowsAreEvenWithoutOne) {
  const std::vector<int64_t> positions = positions_of(ppl_table(summary()));
  ASSERT_EQ(positions.size(), 32u);
  for (size_t i = 0; i < positions.size(); ++i)
    EXPECT_EQ(positions[i], static_cast<int64_t>(i) * 32 * kBucket);
}

}  // namespace
}  // namespace stuffed::cli
