// Statistics of states, and what a model remembers, on the same documents.
#include <algorithm>
#include <cmath>

#include "src/eval/compare/paired.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::comparing {

namespace {

struct Statistics {
  DocumentName name;
  double nll = 0, norm = 0;
  std::vector<double> alpha;  // by layer; empty in older journals
  int64_t not_finite = 0;
};

std::vector<double> numbers_of(const io::json& values) {
  std::vector<double> numbers;
  for (const io::json& value : values)
    numbers.push_back(number_or_nan(value));
  return numbers;
}

Statistics read_statistics(const Side&, const io::json& record) {
  check_state_stats_record(record);
  return {.name = document_name(record),
          .nll = number_or_nan(record.at("mean_nll_nats")),
          .norm = number_or_nan(record.at("largest_norm")),
          .alpha = numbers_of(record.value("alpha_mean_by_layer", io::json::array())),
          .not_finite = io::read_integer(record, "not_finite_states")};
}

template <class Document, class Get>
ComparedValue means_of(const std::string& metric, const Pairs<Document>& pairs, const Get& get) {
  std::vector<double> a, b;
  for (const auto& [of_a, of_b] : pairs) {
    a.push_back(get(of_a));
    b.push_back(get(of_b));
  }
  return row_of_means(metric, a, b);
}

/// How far one of them is from the other, whichever grew.
double distance_of(const ComparedValue& row) {
  return row.distance();
}

template <class Document, class Get>
void add_layers(const std::string& metric,
                const char* worst,
                size_t layers,
                const Pairs<Document>& pairs,
                const Get& values_of,
                ResultComparison& out) {
  for (size_t layer = 0; layer < layers; ++layer) {
    ComparedValue row = means_of(metric, pairs, [&](const Document& document) {
      const auto& values = values_of(document);
      return layer < values.size() ? values[layer] : kUnknown;
    });
    row.axis = "layer";
    row.at = fmt::format("{}", layer);
    raise_metric(out, worst, distance_of(row));
    out.rows.push_back(std::move(row));
  }
}

void add_curve(const io::json& a, const io::json& b, ResultComparison& out) {
  const io::json none = io::json::array();
  const io::json &of_a = a.contains("curve") ? a.at("curve") : none,
                 &of_b = b.contains("curve") ? b.at("curve") : none;
  for (const char* field : {"variance_max", "rank_median"})
    for (size_t i = 0; i < std::min(of_a.size(), of_b.size()); ++i)
      if (of_a[i].contains(field) && of_b[i].contains(field))
        out.rows.push_back({.metric = field,
                            .axis = "position_tokens",
                            .at = of_a[i].at("position_tokens").dump(),
                            .a = number_in(of_a[i], field),
                            .b = number_in(of_b[i], field),
                            .pairs = 1});
}

/// One point of effrem: after how many tokens, and of how many last ones.
struct Memory {
  DocumentName name;
  std::vector<std::string> places;
  std::vector<double> effrem, alpha;
};

Memory read_memory(const Side&, const io::json& record) {
  check_retention_record(record);
  Memory memory{.name = document_name(record), .places = {}, .effrem = {}, .alpha = {}};
  for (const io::json& point : record.at("points"))
    for (size_t i = 0; i < point.at("suffix_tokens").size(); ++i) {
      memory.places.push_back(fmt::format("{}/{}", point.at("read_tokens").dump(),
                                          point.at("suffix_tokens")[i].dump()));
      memory.effrem.push_back(number_or_nan(point.at("effrem").at(i)));
    }
  if (record.contains("alpha"))
    memory.alpha = numbers_of(record.at("alpha").at("mean_by_layer"));
  return memory;
}

/// The median half-life of each layer; one that outlived the measurement is as long as it.
std::vector<double> half_lives_of(const io::json& summary) {
  const io::json& life = summary.at("half_life");
  std::vector<double> lives;
  for (const io::json& layer : life.at("by_layer"))
    lives.push_back(layer.at("median_tokens").is_null() ? life.at("followed_tokens").get<double>()
                                                        : layer.at("median_tokens").get<double>());
  return lives;
}

void add_half_lives(const io::json& a, const io::json& b, ResultComparison& out) {
  if (!a.contains("half_life") || !b.contains("half_life"))
    return;
  const std::vector<double> of_a = half_lives_of(a), of_b = half_lives_of(b);
  for (size_t layer = 0; layer < std::min(of_a.size(), of_b.size()); ++layer) {
    out.rows.push_back({.metric = "half_life_tokens",
                        .axis = "layer",
                        .at = fmt::format("{}", layer),
                        .a = of_a[layer],
                        .b = of_b[layer]});
    raise_metric(out, "half_life_drop_max", growth(of_b[layer], of_a[layer]) / of_a[layer]);
  }
}

template <class Document>
size_t most_layers(const Pairs<Document>& pairs) {
  size_t layers = pairs.front().first.alpha.size();
  for (const auto& [a, b] : pairs)
    layers = std::min({layers, a.alpha.size(), b.alpha.size()});
  return layers;
}

}  // namespace

void compare_state_stats(const Side& a, const Side& b, ResultComparison& out) {
  check_same(a, b, "stride_tokens", "their states are sampled at different places");
  io::json summaries[2];
  const auto pairs = read_pairs<Statistics>(
      a, b, read_statistics, [&](int side, const io::json& record) { summaries[side] = record; });
  out.pairs = std::ssize(pairs);
  out.pairs_of = "documents";
  out.rows.push_back(means_of("nll_nats", pairs, [](const Statistics& of) { return of.nll; }));
  add_mean_loss(out.rows.back(), out);
  const ComparedValue norm =
      means_of("largest_norm", pairs, [](const Statistics& of) { return of.norm; });
  raise_metric(out, "state_norm_relative", growth(norm.a, norm.b) / std::max(norm.a, 1e-300));
  out.rows.push_back(norm);
  add_layers(
      "alpha_mean", "alpha_max", most_layers(pairs), pairs,
      [](const Statistics& of) -> const auto& { return of.alpha; }, out);
  add_curve(summaries[0], summaries[1], out);
  double not_finite = 0;
  for (const auto& [of_a, of_b] : pairs)
    not_finite += static_cast<double>(of_b.not_finite - of_a.not_finite);
  raise_metric(out, "not_finite", not_finite);
}

void compare_retention(const Side& a, const Side& b, ResultComparison& out) {
  io::json summaries[2];
  const auto pairs = read_pairs<Memory>(
      a, b, read_memory, [&](int side, const io::json& record) { summaries[side] = record; });
  const std::vector<std::string>& places = pairs.front().first.places;
  for (const auto& [of_a, of_b] : pairs)
    check(of_a.places == places && of_b.places == places, Error::Kind::Input,
          "{} and {}: are measured at different places (--at, --grid, --points), and cannot be "
          "paired",
          a.path.string(), b.path.string());
  out.pairs = std::ssize(pairs);
  out.pairs_of = "documents";
  for (size_t i = 0; i < places.size(); ++i) {
    ComparedValue row = means_of("effrem", pairs, [&](const Memory& of) { return of.effrem[i]; });
    row.axis = "read/last_tokens";
    row.at = places[i];
    raise_metric(out, "effrem_max", distance_of(row));
    out.rows.push_back(std::move(row));
  }
  add_half_lives(summaries[0], summaries[1], out);
  add_layers(
      "alpha_mean", "alpha_max", most_layers(pairs), pairs,
      [](const Memory& of) -> const auto& { return of.alpha; }, out);
}

}  // namespace stuffed::eval::comparing
