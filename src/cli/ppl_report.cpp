#include "src/cli/ppl_report.h"

#include <algorithm>

#include <fmt/format.h>

#include "src/cli/table.h"

namespace stuffed::cli {

namespace {

constexpr size_t kRows = 32;

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
  const size_t step = (means.size() + kRows - 1) / kRows;
  for (size_t row = 0; row < means.size(); row += step) {
    const bool finite = means[row].is_number();
    const double share = finite && largest > 0 ? means[row].get<double>() / largest : 0;
    table +=
        fmt::format("{:>12} {:>10} {:>10} {:>11} {:>10}  {}\n", static_cast<int64_t>(row) * bucket,
                    cell(means[row], "not finite"), at(summary.at("standard_error_nats"), row),
                    at(summary.at("perplexity"), row), at(bits, row), bar(share));
  }
  if (step > 1)
    table += fmt::format("(every {}th of {} buckets of {} tokens)\n", step, means.size(), bucket);
  if (summary.contains("collapse"))
    table += fmt::format("training length {}, collapse onset: {}\n",
                         summary.at("collapse").at("train_len_tokens").dump(),
                         summary.at("collapse").at("onset_tokens").is_null()
                             ? "none"
                             : summary.at("collapse").at("onset_tokens").dump());
  return table + skipped_documents(summary);
}

}  // namespace stuffed::cli
