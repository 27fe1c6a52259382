#include "src/cli/state_report.h"

#include <fmt/format.h>

#include "src/cli/table.h"

namespace stuffed::cli {

namespace {

std::string curve_table(const io::json& summary) {
  std::string table = "(first document; median and largest over the heads recorded)\n" +
                      fmt::format("{:>12} {:>10} {:>16} {:>16} {:>10}\n", "position", "nll/nats",
                                  "variance median", "variance max", "eff. rank");
  for (const io::json& row : summary.at("curve"))
    table += fmt::format(
        "{:>12} {:>10} {:>16} {:>16} {:>10}\n", row.at("position_tokens").get<int64_t>(),
        cell(row.at("mean_nll_nats"), "not finite"), cell(row.at("variance_median"), "not finite"),
        cell(row.at("variance_max"), "not finite"),
        cell(row.value("rank_median", io::json()), "-"));
  return table;
}

std::string exploding_table(const io::json& summary) {
  const int64_t train_len = summary.at("train_len_tokens").get<int64_t>();
  const io::json& heads = summary.at("exploding");
  if (heads.empty())
    return fmt::format("no sample lies past the training length {}\n", train_len);
  std::string table = fmt::format(
      "heads whose state grows most past the training length {} (largest variance past "
      "over within):\n{:>6} {:>6} {:>12} {:>12} {:>12} {:>12}\n",
      train_len, "layer", "head", "within", "past", "ratio", "at");
  for (const io::json& head : heads)
    table += fmt::format(
        "{:>6} {:>6} {:>12} {:>12} {:>12} {:>12}\n", head.at("layer").get<int64_t>(),
        head.at("head").get<int64_t>(), cell(head.at("variance_within"), "not finite"),
        cell(head.at("variance_past"), "not finite"), cell(head.at("ratio"), "infinite"),
        head.at("largest_at_tokens").get<int64_t>());
  return table;
}

/// "" in results of older runs.
std::string alpha_line(const io::json& summary) {
  const io::json alpha = summary.value("alpha_mean_by_layer", io::json());
  if (alpha.is_null())
    return "";
  std::string line = "mean decay alpha per token, by layer recorded:";
  for (const io::json& mean : alpha)
    line += mean.is_number() ? fmt::format(" {:.6f}", mean.get<double>()) : " not finite";
  return line + "\n";
}

}  // namespace

std::string state_table(const io::json& summary) {
  std::string table = curve_table(summary) + alpha_line(summary);
  table += summary.at("exploding").is_array()
               ? exploding_table(summary)
               : "--train-len was not given, so exploding heads were not sought\n";
  return table + skipped_documents(summary);
}

}  // namespace stuffed::cli
