// Retention: what decays leave of a token, half-lives, and what forgetting the past changes.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "arrays.h"
#include "sections.h"
#include "src/eval/compare/intervals.h"

namespace stuffed::report {

using io::json;

namespace {

/// The summary, or of a run that goes on the last document measured; null if there is none.
const json* record_of(const Run& run) {
  if (const json* const summary = run.find("summary"))
    return summary;
  const std::vector<const json*> documents = run.all("document=");
  return documents.empty() ? nullptr : documents.back();
}

std::vector<double> numbers(const json& array) {
  std::vector<double> values;
  for (const json& one : array)
    values.push_back(number_of(one));
  return values;
}

const json& most_read(const json& record) {
  return *std::ranges::max_element(record.at("points"), {}, [](const json& point) {
    return point.at("read_tokens").get<int64_t>();
  });
}

void add_weights(json& panel, const json& point, const char* field, bool is_dashed) {
  if (!point.contains(field))
    return;
  const std::vector<double> suffixes = numbers(point.at("suffix_tokens"));
  const json& layers = point.at(field);
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    Series series{.name = fmt::format("layer {}{}", layer, is_dashed ? ", mitigated" : ""),
                  .x = {},
                  .y = {},
                  .shade = layers.size() > 1
                               ? static_cast<double>(layer) / static_cast<double>(layers.size() - 1)
                               : 0,
                  .is_dashed = is_dashed};
    const std::vector<double> weights = numbers(layers[layer]);
    for (size_t i = 0; i < weights.size(); ++i)
      if (suffixes.at(i) > 1) {
        series.x.push_back(suffixes[i] - 1);
        series.y.push_back(weights[i] > 0 ? weights[i] : Axis::kNone);
      }
    add_series(panel, series);
  }
}

std::string part_of(const json& record) {
  return record.at("transition") == "diagonal" ? "" : " (diagonal part)";
}

json weights_panel(const json& record) {
  const json& point = most_read(record);
  json panel =
      lines_panel(fmt::format("what is left of a token{}, after {}", part_of(record),
                              size_text(point.at("read_tokens"))),
                  {.label = "distance (tokens)", .log = true},
                  {.label = "surviving weight, mean over heads", .log = true, .least = 1e-6});
  add_weights(panel, point, "surviving_weight_by_layer", false);
  add_weights(panel, point, "mitigated_surviving_weight_by_layer", true);
  panel["scale"] = {
      {"label", "layer"}, {"least", 0}, {"most", point.at("surviving_weight_by_layer").size() - 1}};
  return panel;
}

struct Interval {
  double low, high;
};

/// Of the effective remembrance of one suffix, by Student's t over documents, within 0 and 1; NaN
/// for a single document.
Interval effrem_interval(const json& record, const json& point, size_t suffix) {
  const auto documents = record.value("documents", int64_t{1});
  if (documents < 2 || !point.contains("effrem_standard_error"))
    return {Axis::kNone, Axis::kNone};
  const double effrem = number_of(point.at("effrem").at(suffix));
  const double half = eval::comparing::student_quantile(static_cast<double>(documents - 1)) *
                      number_of(point.at("effrem_standard_error").at(suffix));
  if (std::isnan(effrem) || std::isnan(half))
    return {Axis::kNone, Axis::kNone};
  return {std::max(0.0, effrem - half), std::min(1.0, effrem + half)};
}

json effrem_panel(const json& record, const Run& run) {
  json panel =
      lines_panel("what forgetting the rest changes", {.label = "last n tokens read", .log = true},
                  {.label = "EffRem (total variation)", .least = 0, .most = 1});
  int style = 0;
  for (const json& point : record.at("points")) {
    Series series{.name = "after " + size_text(point.at("read_tokens")),
                  .style = style++,
                  .x = numbers(point.at("suffix_tokens")),
                  .y = numbers(point.at("effrem")),
                  .has_points = true};
    for (size_t i = 0; i < series.y.size(); ++i) {
      const Interval interval = effrem_interval(record, point, i);
      series.low.push_back(interval.low);
      series.high.push_back(interval.high);
    }
    add_series(panel, series);
  }
  add_train_lengths(panel, {&run});
  panel["own_legend"] = true;
  return panel;
}

/// Layers by heads; a column stands for the longest-lived of neighbouring heads where there are more than
/// a screen shows.
json half_life_panel(const Array& half_life, const json& record, const std::string& title) {
  constexpr int64_t kMostColumns = 512;
  const int64_t L = half_life.shape.at(0), H = half_life.shape.at(1),
                group = (H + kMostColumns - 1) / kMostColumns;
  const auto followed = record.at("half_life").at("followed_tokens").get<int64_t>();
  std::vector<double> shown;
  for (int64_t layer = 0; layer < L; ++layer)
    for (int64_t first = 0; first < H; first += group) {
      double longest = 0;
      for (int64_t head = first; head < std::min(H, first + group); ++head) {
        const double one = half_life.values[static_cast<size_t>(layer * H + head)];
        longest = std::isnan(one) || std::isnan(longest) ? Axis::kNone : std::max(longest, one);
      }
      shown.push_back(longest);
    }
  return {{"kind", "map"},
          {"title", title},
          {"rows", L},
          {"columns", (H + group - 1) / group},
          {"group", group},
          {"x",
           {{"label",
             group > 1 ? fmt::format("head (groups of {}, the longest-lived)", group) : "head"}}},
          {"y", {{"label", "layer"}}},
          {"value", {{"label", "half-life (tokens)"}}},
          {"missing", fmt::format("{} tokens or more", size_text(followed))},
          {"values", packed(shown, true)}};
}

Table effrem_table(const json& record, const json& point, const Run& run) {
  Table table{.caption = fmt::format(
                  "{}: EffRem (total variation, 0 to 1) after {} tokens, with 95 % intervals",
                  run.label(), size_text(point.at("read_tokens"))),
              .columns = {"last n tokens", "EffRem"}};
  for (size_t i = 0; i < point.at("effrem").size(); ++i) {
    const Interval of = effrem_interval(record, point, i);
    table.rows.push_back({value(point.at("suffix_tokens").at(i)),
                          interval(number_of(point.at("effrem").at(i)), of.low, of.high)});
  }
  return table;
}

Table half_life_table(const json& half_life, const std::string& name) {
  Table table{
      .caption =
          fmt::format("{} (tokens) by layer, over its {} heads; followed for {} tokens", name,
                      half_life.at("heads").dump(), half_life.at("followed_tokens").dump()),
      .columns = {"layer", "least", "median", "most", "heads that outlived the measurement"}};
  int64_t layer = 0;
  for (const json& row : half_life.at("by_layer"))
    table.rows.push_back({count(layer++), value(row.at("least_tokens")),
                          value(row.at("median_tokens")), value(row.at("most_tokens")),
                          value(row.at("censored_heads"))});
  return table;
}

std::string tables_of(const json& record, const Run& run) {
  std::string tables;
  if (record.contains("half_life"))
    tables = html_of(half_life_table(record.at("half_life"), run.label() + ": half-life"));
  if (record.contains("mitigated_half_life"))
    tables += html_of(
        half_life_table(record.at("mitigated_half_life"), run.label() + ": mitigated half-life"));
  for (const json& point : record.at("points"))
    tables += html_of(effrem_table(record, point, run));
  return details("Numbers", tables, false);
}

void add_half_lives(json& figure, const Run& run, const json& record, Page& page) {
  std::string why;
  const std::optional<Arrays> arrays = Arrays::open(run, why);
  if (!arrays)
    return page.warn(fmt::format("{}: no map of half-lives: {}", run.label(), why));
  const std::string part = part_of(record);
  for (const auto& [name, title] : {std::pair{"half_life_tokens", "half-life of each head"},
                                    {"mitigated/half_life_tokens", "mitigated half-life"}}) {
    if (!arrays->has(name))
      continue;
    const std::string median = std::string(name) + "/median";
    const Array half_life = arrays->has(median) ? arrays->load(median) : arrays->of_document(name);
    figure["panels"].push_back(half_life_panel(half_life, record, title + part));
  }
}

}  // namespace

void add_retention(Page& page, const Runs& runs) {
  if (runs.empty())
    return;
  page.section("retention", "Retention");
  for (const Run* run : runs)
    explained(*run, [&] {
      const json* const record = record_of(*run);
      if (record == nullptr)
        return page.warn(run->label() + ": no document is measured yet");
      json figure = {{"panels", json::array()}};
      figure["panels"].push_back(weights_panel(*record));
      add_half_lives(figure, *run, *record, page);
      figure["panels"].push_back(effrem_panel(*record, *run));
      page.figure(std::move(figure),
                  run->label() +
                      ": what the decays leave of a token by its distance, the half-life of every "
                      "head, and "
                      "how far the prediction moves when all but the last n tokens are forgotten. "
                      "Bands are "
                      "95 % intervals over documents.",
                  tables_of(*record, *run));
    });
}

}  // namespace stuffed::report
