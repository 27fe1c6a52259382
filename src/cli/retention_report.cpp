#include "src/cli/retention_report.h"

#include <fmt/format.h>

#include "src/cli/table.h"

namespace stuffed::cli {

namespace {

std::string half_life_table(const io::json& half_life, const std::string& transition) {
  const std::string censored = fmt::format(">= {}", half_life.at("followed_tokens").get<int64_t>());
  std::string table = fmt::format(
      "half-lives in tokens, median of {} starts, over {} heads; {} transition\n",
      half_life.at("starts").get<int64_t>(), half_life.at("heads").get<int64_t>(),
      transition == "diagonal" ? "diagonal" : "diagonal part of the (the erase term is left out)");
  table += fmt::format("{:>8} {:>12} {:>12} {:>12} {:>15}\n", "layer", "least", "median", "most",
                       "heads censored");
  for (size_t i = 0; i < half_life.at("by_layer").size(); ++i) {
    const io::json& layer = half_life.at("by_layer")[i];
    table += fmt::format(
        "{:>8} {:>12} {:>12} {:>12} {:>15}\n", i, cell(layer.at("least_tokens"), censored),
        cell(layer.at("median_tokens"), censored), cell(layer.at("most_tokens"), censored),
        layer.at("censored_heads").get<int64_t>());
  }
  return table;
}

/// Over layers, null if one is.
io::json mean_at(const io::json& by_layer, size_t index) {
  double sum = 0;
  for (const io::json& layer : by_layer) {
    if (layer.at(index).is_null())
      return {};
    sum += layer.at(index).get<double>();
  }
  return sum / static_cast<double>(by_layer.size());
}

std::string point_table(const io::json& point) {
  std::string table = fmt::format(
      "\nafter {} tokens: what the last n of them alone change\n{:>12} "
      "{:>10} {:>10} {:>18}\n",
      point.at("read_tokens").get<int64_t>(), "n", "effrem", "std.error", "surviving weight");
  for (size_t i = 0; i < point.at("suffix_tokens").size(); ++i) {
    const io::json& effrem = point.at("effrem")[i];
    const double share = effrem.is_number() ? effrem.get<double>() : 0;
    table += fmt::format(
        "{:>12} {:>10} {:>10} {:>18}  {}\n", point.at("suffix_tokens")[i].get<int64_t>(),
        cell(effrem, "not finite"), cell(point.at("effrem_standard_error")[i], "-"),
        cell(mean_at(point.at("surviving_weight_by_layer"), i), "not finite"), bar(share));
  }
  return table;
}

}  // namespace

std::string retention_table(const io::json& summary) {
  std::string table =
      half_life_table(summary.at("half_life"), summary.at("transition").get<std::string>());
  for (const io::json& point : summary.at("points"))
    table += point_table(point);
  return table + skipped_documents(summary);
}

}  // namespace stuffed::cli
