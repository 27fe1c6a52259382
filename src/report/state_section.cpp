// Statistics of the state: every layer and head at once, and any one of them along the stream.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "arrays.h"
#include "sections.h"
#include "stuffed/core/error.h"

namespace stuffed::report {

using io::json;

namespace {

constexpr int64_t kMostCells = 16384;         // layers times columns: about what a screen can show
constexpr int64_t kMostNumbers = 400 * 1024;  // of the curves of all runs together; 3 bytes each

struct Quantity {
  const char* array;
  const char* label;
  bool log;
};
constexpr Quantity kQuantities[] = {{"state.variance", "variance of the state", true},
                                    {"state.rank", "effective rank", false},
                                    {"alpha.mean", "mean decay per token", false}};

/// What a page shows of one run: columns stand for neighbouring heads where there are too many, each
/// shown by the one that grows most.
struct States {
  const Run* run;
  std::vector<double> positions = {};
  std::vector<int64_t> layers = {}, heads = {};
  Array variance;                // [S,L,H]
  std::vector<double> map = {};  // [L,H]
  std::string map_label = {}, map_unit = {};
  int64_t group = 1, columns = 0;
  std::vector<size_t> shown = {};  // [L,columns]: the head of each
};

std::vector<int64_t> axis_of(const json& chosen, int64_t size) {
  if (chosen.is_array())
    return chosen.get<std::vector<int64_t>>();
  std::vector<int64_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

/// How much more the variance is past the training length; where nothing is, the variance at the end.
void add_map(const Arrays& arrays, States& states) {
  if (arrays.has("variance_ratio"))
    states.map = arrays.load("variance_ratio").values;
  if (std::ranges::any_of(states.map, [](double ratio) { return !std::isnan(ratio); })) {
    states.map_label = "largest variance past the training length over that within";
    states.map_unit = "ratio";
    return;
  }
  const size_t cells = states.layers.size() * states.heads.size();
  states.map.assign(states.variance.values.end() - static_cast<int64_t>(cells),
                    states.variance.values.end());
  states.map_label = "variance of the state at the end";
  states.map_unit = "variance";
}

void choose_heads(States& states) {
  const auto L = static_cast<int64_t>(states.layers.size()),
             H = static_cast<int64_t>(states.heads.size());
  states.group = (L * H + kMostCells - 1) / kMostCells;
  states.columns = (H + states.group - 1) / states.group;
  const auto size = [&](size_t at) { return std::isnan(states.map[at]) ? -1 : states.map[at]; };
  for (int64_t layer = 0; layer < L; ++layer)
    for (int64_t first = 0; first < H; first += states.group) {
      auto largest = static_cast<size_t>(layer * H + first);
      for (int64_t head = first; head < std::min(H, first + states.group); ++head)
        if (size(static_cast<size_t>(layer * H + head)) > size(largest))
          largest = static_cast<size_t>(layer * H + head);
      states.shown.push_back(largest);
    }
}

States read_states(const Run& run, const Arrays& arrays) {
  States states{.run = &run, .variance = arrays.of_document("state.variance")};
  const std::vector<int64_t>& shape = states.variance.shape;
  check(shape.size() == 3 && shape[0] > 0, Error::Kind::Input,
        "{}: 'state.variance' is not [S,L,H]", run.arrays.string());
  const auto stride = run.config.at("stride_tokens").get<double>();
  for (int64_t s = 0; s < shape[0]; ++s)
    states.positions.push_back(static_cast<double>(s + 1) * stride);
  states.layers = axis_of(run.config.at("layers"), shape[1]);
  states.heads = axis_of(run.config.at("heads"), shape[2]);
  check(std::ssize(states.layers) == shape[1] && std::ssize(states.heads) == shape[2],
        Error::Kind::Input, "{}: its arrays are of other layers and heads than its journal's",
        run.arrays.string());
  add_map(arrays, states);
  check(states.map.size() == static_cast<size_t>(shape[1] * shape[2]), Error::Kind::Input,
        "{}: 'variance_ratio' is not [L,H]", run.arrays.string());
  choose_heads(states);
  return states;
}

/// [S,L,H] -> [samples,L,columns], packed.
json packed_curves(const Array& array,
                   const States& states,
                   const std::vector<size_t>& samples,
                   bool log) {
  const size_t cells = states.layers.size() * states.heads.size();
  std::vector<double> values;
  for (const size_t sample : samples)
    for (const size_t head : states.shown)
      values.push_back(array.values[sample * cells + head]);
  return packed(values, log);
}

std::vector<double> at_shown(const std::vector<double>& values, const States& states) {
  std::vector<double> chosen;
  for (const size_t head : states.shown)
    chosen.push_back(values[head]);
  return chosen;
}

std::vector<Quantity> quantities_of(const Arrays& arrays) {
  std::vector<Quantity> there;
  for (const Quantity& quantity : kQuantities)
    if (arrays.has(quantity.array))
      there.push_back(quantity);
  return there;
}

std::vector<int64_t> head_names(const States& states) {
  std::vector<int64_t> names;
  for (const size_t head : states.shown)
    names.push_back(states.heads[head % states.heads.size()]);
  return names;
}

json figure_of(const States& states, const Arrays& arrays, int64_t most_numbers) {
  const std::vector<Quantity> quantities = quantities_of(arrays);
  const int64_t numbers = std::ssize(states.shown) * std::ssize(quantities);
  const std::vector<size_t> samples =
      spaced(states.positions.size(),
             static_cast<size_t>(std::clamp<int64_t>(most_numbers / numbers, 4, 128)));
  json figure = {{"kind", "states"},
                 {"title", states.run->label()},
                 {"layers", states.layers},
                 {"columns", states.columns},
                 {"group", states.group},
                 {"heads", head_names(states)},
                 {"positions", array_of(states.positions, samples)},
                 {"map", packed(at_shown(states.map, states), true)},
                 {"map_label", states.map_label},
                 {"map_unit", states.map_unit},
                 {"quantities", json::array()}};
  for (const Quantity& quantity : quantities)
    figure["quantities"].push_back({{"label", quantity.label},
                                    {"values", packed_curves(arrays.of_document(quantity.array),
                                                             states, samples, quantity.log)}});
  json rules = lines_panel("", {.label = ""}, {.label = ""});
  add_train_lengths(rules, {states.run});
  figure["rules"] = rules["rules"];
  const std::vector<double> map = at_shown(states.map, states);
  const auto size = [&](size_t at) { return std::isnan(map[at]) ? -1 : map[at]; };
  size_t largest = 0;
  for (size_t at = 1; at < map.size(); ++at)
    largest = size(at) > size(largest) ? at : largest;
  figure["first"] = largest;
  return figure;
}

Table exploding_of(const Run& run, const json& exploding) {
  Table table{.caption = run.label() + ": heads whose variance grows most past the training length",
              .columns = {"layer", "head", "largest variance within", "largest variance past it",
                          "ratio", "largest at (tokens)"}};
  for (const json& head : exploding)
    table.rows.push_back({value(head.at("layer")), value(head.at("head")),
                          value(head.at("variance_within")), value(head.at("variance_past")),
                          value(head.at("ratio")), value(head.at("largest_at_tokens"))});
  return table;
}

Table curve_of_states(const Run& run, const json& curve) {
  Table table{.caption = run.label() + ": along the first document, over all layers and heads",
              .columns = {"position (tokens)", "loss (nats per token)", "median variance",
                          "largest variance", "median effective rank"}};
  for (const json& row : curve)
    table.rows.push_back({value(row.at("position_tokens")), value(row.at("mean_nll_nats")),
                          value(row.at("variance_median")), value(row.at("variance_max")),
                          value(row.value("rank_median", json()))});
  return table;
}

Table decay_of(const Run& run, const json& alphas) {
  Table table{.caption = run.label() + ": mean decay per token by layer",
              .columns = {"layer", "mean decay per token"}};
  const std::vector<int64_t> layers = axis_of(run.config.at("layers"), std::ssize(alphas));
  for (size_t i = 0; i < alphas.size(); ++i)
    table.rows.push_back({count(layers.at(i)), value(alphas[i])});
  return table;
}

std::string tables_of(const Run& run) {
  const json* const summary = run.find("summary");
  if (summary == nullptr)
    return "";
  std::string tables, folded = html_of(curve_of_states(run, summary->at("curve")));
  if (summary->contains("exploding") && !summary->at("exploding").empty())
    tables = html_of(exploding_of(run, summary->at("exploding")));
  if (summary->contains("alpha_mean_by_layer"))
    folded += html_of(decay_of(run, summary->at("alpha_mean_by_layer")));
  return tables + details("Numbers along the stream, and by layer", folded, false);
}

}  // namespace

void add_states(Page& page, const Runs& runs) {
  if (runs.empty())
    return;
  page.section("states", "The state, by layer and head");
  for (const Run* run : runs)
    explained(*run, [&] {
      const std::string tables = tables_of(*run);
      std::string why;
      const std::optional<Arrays> arrays = Arrays::open(*run, why);
      if (!arrays) {
        page.warn(fmt::format("{}: no map of its layers and heads: {}", run->label(), why));
        return page.add(tables);
      }
      const States states = read_states(*run, *arrays);
      page.figure(figure_of(states, *arrays, kMostNumbers / std::ssize(runs)),
                  run->label() +
                      ": every layer and head, and one of them along the first document; choose it "
                      "by clicking the map, or from the lists.",
                  tables);
    });
}

}  // namespace stuffed::report
