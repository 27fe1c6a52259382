#include "panels.h"

#include <algorithm>
#include <set>

namespace stuffed::report {

using io::json;

namespace {

json axis_of(const Axis& axis) {
  return {{"label", axis.label},
          {"log", axis.log},
          {"least", io::number_or_null(axis.least)},
          {"most", io::number_or_null(axis.most)}};
}

}  // namespace

json lines_panel(const std::string& title, const Axis& x, const Axis& y) {
  return {{"kind", "lines"},        {"title", title},          {"x", axis_of(x)},
          {"y", axis_of(y)},        {"series", json::array()}, {"rules", json::array()},
          {"points", json::array()}};
}

void add_series(json& panel, const Series& series) {
  json one = {{"name", series.name},
              {"style", series.style},
              {"x", array_of(series.x)},
              {"y", array_of(series.y)}};
  if (!series.low.empty()) {
    one["low"] = array_of(series.low);
    one["high"] = array_of(series.high);
  }
  if (series.shade >= 0)
    one["shade"] = series.shade;
  if (series.has_points)
    one["dots"] = true;
  if (series.is_dashed)
    one["dashed"] = true;
  panel["series"].push_back(std::move(one));
}

void add_rule(json& panel, double x, const std::string& label) {
  panel["rules"].push_back({{"x", x}, {"label", label}});
}

void add_train_lengths(json& panel, const Runs& runs) {
  std::set<int64_t> lengths;
  for (const Run* run : runs)
    lengths.insert(run->train_len());
  lengths.erase(0);
  for (const int64_t length : lengths)
    add_rule(panel, static_cast<double>(length), "trained at " + size_text(length));
}

void add_point(json& panel, double x, double y, int style, const std::string& label) {
  panel["points"].push_back(
      {{"x", x}, {"y", io::number_or_null(y)}, {"style", style}, {"label", label}});
}

json legend_of(const Runs& runs) {
  constexpr size_t kMost = 8;  // beyond, those with mitigations wait to be asked for
  const bool plain_first =
      std::ranges::any_of(runs, [](const Run* run) { return run->mitigations() == "none"; });
  json legend = json::array();
  for (size_t i = 0; i < runs.size(); ++i)
    legend.push_back(
        {{"name", runs[i]->label()},
         {"style", i},
         {"hidden", runs.size() > kMost && plain_first && runs[i]->mitigations() != "none"}});
  return legend;
}

}  // namespace stuffed::report
