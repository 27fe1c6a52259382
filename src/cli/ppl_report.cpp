#include "src/cli/ppl_report.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include <fmt/format.h>

#include "src/cli/table.h"

namespace stuffed::cli {

namespace {

constexpr size_t kRows = 32;

/// Every so manieth, as few as make at most kRows.
std::vector<size_t> rows_by_count(size_t buckets) {
  std::vector<size_t> rows;
  const size_t step = (buckets + kRows - 1) / kRows;
  for (size_t row = 0; row < buckets; row += step)
    rows.push_back(row);
  return rows;
}

/// Each farther from the one before by the same factor, the last included: what lies within the
/// training length has as many rows as what lies that often past it.
std::vector<size_t> rows_by_factor(size_t buckets) {
  std::set<size_t> rows;
  for (size_t i = 0; i < kRows; ++i) {
    const double share = static_cast<double>(i) / (kRows - 1);
    rows.insert(static_cast<size_t>(std::lround(std::pow(buckets, share))) - 1);
  }
  return {rows.begin(), rows.end()};
}

}  // namespace

std::string ppl_table(const io::json& summary) {
  const io::json& means = summary.at("mean_nll_nats");
  const int64_t bucket = summary.at("bucket_tokens");
  const io::json bits = summary.value("bits_per_byte", io::json());
  double largest = 0;
  for (const io::json& mean : means)
    largest = std::max(largest, mean.is_number() ? mean.get<double>() : 0);
  std::string table = fmt::format("{:>12} {:>10} {:>10} {:>11} {:>10}\n", "position", "nll/nats",
                                  "std.error", "perplexity", "bits/byte");
  const auto at = [](const io::json& values, size_t row) {
    return cell(values.is_array() ? values[row] : io::json(), "-");
  };
  const bool in_factors = summary.contains("collapse") && means.size() > kRows;
  const std::vector<size_t> rows =
      in_factors ? rows_by_factor(means.size()) : rows_by_count(means.size());
  for (const size_t row : rows) {
    const bool finite = means[row].is_number();
    const double share = finite && largest > 0 ? means[row].get<double>() / largest : 0;
    table +=
        fmt::format("{:>12} {:>10} {:>10} {:>11} {:>10}  {}\n", static_cast<int64_t>(row) * bucket,
                    cell(means[row], "not finite"), at(summary.at("standard_error_nats"), row),
                    at(summary.at("perplexity"), row), at(bits, row), bar(share));
  }
  if (rows.size() < means.size())
    table += fmt::format("({} of {} buckets of {} tokens{})\n", rows.size(), means.size(), bucket,
                         in_factors ? ", evenly in the logarithm" : "");
  if (summary.contains("collapse"))
    table += fmt::format("training length {}, collapse onset: {}\n",
                         summary.at("collapse").at("train_len_tokens").dump(),
                         summary.at("collapse").at("onset_tokens").is_null()
                             ? "none"
                             : summary.at("collapse").at("onset_tokens").dump());
  return table + skipped_documents(summary);
}

}  // namespace stuffed::cli
