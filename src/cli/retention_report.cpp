#include "src/cli/retention_report.h"

#include <fmt/format.h>

#include "src/cli/table.h"

namespace stuffed::cli {

namespace {

/// Six digits after the point: alphas are near 1. "-" in results of older runs.
std::string alpha_cell(const io::json& alpha, size_t layer) {
  const io::json value = alpha.is_null() ? io::json() : alpha.at("mean_by_layer").at(layer);
  return value.is_number() ? fmt::format("{:.6f}", value.get<double>()) : "-";
}

/// `whose`: "", or "mitigated ".
std::string half_life_table(const io::json& half_life,
                            const io::json& alpha,
                            const std::string& transition,
                            const std::string& whose) {
  const std::string censored = fmt::format(">= {}", half_life.at("followed_tokens").get<int64_t>());
  std::string table = fmt::format(
      "{}half-lives in tokens, median of {} starts, over {} heads; {} transition\n", whose,
      half_life.at("starts").get<int64_t>(), half_life.at("heads").get<int64_t>(),
      transition == "diagonal" ? "diagonal" : "diagonal part of the (the erase term is left out)");
  table += fmt::format("{:>8} {:>12} {:>12} {:>12} {:>15} {:>12}\n", "layer", "least", "median",
                       "most", "heads censored", "mean alpha");
  for (size_t i = 0; i < half_life.at("by_layer").size(); ++i) {
    const io::json& layer = half_life.at("by_layer").at(i);
    table += fmt::format(
        "{:>8} {:>12} {:>12} {:>12} {:>15} {:>12}\n", i, cell(layer.at("least_tokens"), censored),
        cell(layer.at("median_tokens"), censored), cell(layer.at("most_tokens"), censored),
        layer.at("censored_heads").get<int64_t>(), alpha_cell(alpha, i));
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
  const io::json mitigated = point.value("mitigated_surviving_weight_by_layer", io::json());
  std::string table = fmt::format(
      "\nafter {} tokens: what the last n of them alone change\n{:>12} "
      "{:>10} {:>10} {:>18}{}\n",
      point.at("read_tokens").get<int64_t>(), "n", "effrem", "std.error", "surviving weight",
      mitigated.is_null() ? "" : fmt::format(" {:>12}", "mitigated"));
  for (size_t i = 0; i < point.at("suffix_tokens").size(); ++i) {
    const io::json& effrem = point.at("effrem").at(i);
    const double share = effrem.is_number() ? effrem.get<double>() : 0;
    table += fmt::format(
        "{:>12} {:>10} {:>10} {:>18}{}  {}\n", point.at("suffix_tokens").at(i).get<int64_t>(),
        cell(effrem, "not finite"), cell(point.at("effrem_standard_error").at(i), "-"),
        cell(mean_at(point.at("surviving_weight_by_layer"), i), "not finite"),
        mitigated.is_null() ? ""
                            : fmt::format(" {:>12}", cell(mean_at(mitigated, i), "not finite")),
        bar(share));
  }
  return table;
}

}  // namespace

std::string retention_table(const io::json& summary) {
  std::string table;
  for (const auto& [prefix, whose] : {std::pair{"", ""}, {"mitigated_", "mitigated "}})
    if (summary.contains(std::string(prefix) + "half_life"))
      table += half_life_table(summary.at(std::string(prefix) + "half_life"),
                               summary.value(std::string(prefix) + "alpha", io::json()),
                               summary.at("transition").get<std::string>(), whose);
  for (const io::json& point : summary.at("points"))
    table += point_table(point);
  return table + skipped_documents(summary);
}

}  // namespace stuffed::cli
