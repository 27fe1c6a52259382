#include "src/cli/ppl_report.h"

#include <algorithm>
#include <cstdio>
#include <unistd.h>

namespace stuffed::cli {

namespace {

constexpr size_t kRows = 32;
constexpr double kBarColumns = 30;

std::string cell(const io::json& values, size_t row, const char* missing = "-") {
  return values.is_array() && values[row].is_number()
             ? fmt::format("{:.4g}", values[row].get<double>())
             : missing;
}

}  // namespace

PplProgressLine::PplProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

void PplProgressLine::show(const eval::PplProgress& progress) {
  const Clock::time_point now = Clock::now();
  const bool document_done = progress.position == progress.targets;
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10)) &&
      !(terminal_ && document_done))
    return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = static_cast<double>(progress.scored_by_process) / std::max(seconds, 1e-9);
  const double left =
      static_cast<double>(progress.targets - progress.position) / std::max(speed, 1e-9);
  fmt::print(stderr, "{}document {}: {} of {} tokens, {:.0f} tokens/s, {:.0f} s left in it{}",
             terminal_ ? "\r" : "", progress.document, progress.position, progress.targets, speed,
             left, terminal_ ? "   " : "\n");
  std::fflush(stderr);
}

void PplProgressLine::end() const {
  if (terminal_ && shown_)
    fmt::print(stderr, "\n");
}

std::string ppl_table(const io::json& summary) {
  const io::json& means = summary.at("mean_nll_nats");
  const int64_t bucket = summary.at("bucket_tokens");
  const io::json bits = summary.value("bits_per_byte", io::json());
  double largest = 0;
  for (const io::json& mean : means)
    largest = std::max(largest, mean.is_number() ? mean.get<double>() : 0);
  std::string table = fmt::format("{:>12} {:>10} {:>10} {:>11} {:>10}\n", "position", "nll/nats",
                                  "std.error", "perplexity", "bits/byte");
  const size_t step = (means.size() + kRows - 1) / kRows;
  for (size_t row = 0; row < means.size(); row += step) {
    const bool finite = means[row].is_number();
    const double share = finite && largest > 0 ? means[row].get<double>() / largest : 0;
    std::string bar;
    for (int i = 0; i < static_cast<int>(share * kBarColumns + 0.5); ++i)
      bar += "█";
    table +=
        fmt::format("{:>12} {:>10} {:>10} {:>11} {:>10}  {}\n", static_cast<int64_t>(row) * bucket,
                    cell(means, row, "not finite"), cell(summary.at("standard_error_nats"), row),
                    cell(summary.at("perplexity"), row), cell(bits, row), bar);
  }
  if (step > 1)
    table += fmt::format("(every {}th of {} buckets of {} tokens)\n", step, means.size(), bucket);
  if (summary.contains("collapse"))
    table += fmt::format("training length {}, collapse onset: {}\n",
                         summary.at("collapse").at("train_len_tokens").dump(),
                         summary.at("collapse").at("onset_tokens").is_null()
                             ? "none"
                             : summary.at("collapse").at("onset_tokens").dump());
  if (!summary.at("skipped").empty())
    table +=
        fmt::format("{} documents were too short and left out\n", summary.at("skipped").size());
  return table;
}

}  // namespace stuffed::cli
