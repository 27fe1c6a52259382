#include "stuffed/eval/fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "src/eval/fit/bootstrap.h"
#include "src/eval/fit/fit_points.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/ppl_by_length.h"

namespace stuffed::eval {

namespace fitting {

namespace {

using io::json;

constexpr int64_t kFewest = 3;            // uncensored points that a fit needs
constexpr int64_t kCurvePlaces = 49;      // of the curve that is drawn, from 0 to the largest size
constexpr double kPaperRSquared = 0.999;  // which the paper's exceed, it says of both laws

/// The model of one source, and its record.
Measured measure(const FitOptions& options,
                 const Source& source,
                 std::optional<int64_t> given_seed,
                 json& record) {
  const json& model = source.config.at("model");
  const std::string sha256 = model.at("sha256");
  const ModelFacts facts = read_facts(source.facts, source.model, sha256, source.name);
  Measured out{.name = source.name,
               .sha256 = sha256,
               .state_elements = facts.state.elements(options.rule),
               .train_len_tokens = facts.train_len_tokens,
               .seed = facts.seed};
  if (const json given = source.config.value("train_len_tokens", json()); !given.is_null())
    out.train_len_tokens = given.get<int64_t>();
  if (!out.seed && given_seed)
    out.seed = static_cast<uint64_t>(*given_seed);
  record = {{"result", source.name},
            {"sha256", sha256},
            {"family", model.at("family")},
            {"state_elements", out.state_elements},
            {"train_len_tokens", out.train_len_tokens ? json(*out.train_len_tokens) : json()},
            {"seed", out.seed ? json(*out.seed) : json()}};
  if (options.law == Law::Forget)
    read_collapse(source, out, record);
  else
    read_recall(source, options.threshold, out, record);
  return out;
}

void check_alike(const std::vector<Source>& sources) {
  const Source& first = sources.front();
  for (const Source& source : sources)
    explained(source, [&] {
      const json a = first.config.at("model").at("family"),
                 b = source.config.at("model").at("family");
      check(a == b, Error::Kind::Input,
            "{} and {}: are of models of two families ({} and {}), which have laws of their own; "
            "fit one at a time",
            first.name, source.name, a.get<std::string>(), b.get<std::string>());
      check(first.config.value("mitigations", json()) == source.config.value("mitigations", json()),
            Error::Kind::Input,
            "{} and {}: were measured under different mitigations; fit those of one at a time",
            first.name, source.name);
    });
}

FitData published_points() {
  FitData data;
  for (const Observation& point : paper_forget_points())
    data.points.push_back({.state_elements = std::llround(point.x * kElements),
                           .tokens = std::llround(point.y * kTokens)});
  return data;
}

Observation observation_of(const FitPoint& point) {
  return {.x = static_cast<double>(point.state_elements) / kElements,
          .y = static_cast<double>(point.tokens) / kTokens,
          .censored = point.censored == "at most"    ? Censored::AtMost
                      : point.censored == "at least" ? Censored::AtLeast
                                                     : Censored::No};
}

void check_enough(Law law, const std::vector<Observation>& points) {
  std::set<double> sizes;
  int64_t values = 0;
  for (const Observation& point : points)
    if (point.censored == Censored::No) {
      sizes.insert(point.x);
      ++values;
    }
  check(values >= kFewest, Error::Kind::Input,
        "{} of {} points have a value, a fit needs {}; the others are bounds: {}", values,
        points.size(), kFewest,
        law == Law::Forget
            ? "train at more lengths, so that of a size one collapses and a longer one does not"
            : "try more lengths, so that of a size one passes and a longer one does not");
  check(std::ssize(sizes) >= unknowns(law), Error::Kind::Input,
        "the points that have a value are of {} state sizes, {} needs {}; measure more sizes",
        sizes.size(), form_of(law), unknowns(law));
}

/// Over the points that have a value.
double r_squared(const Curve& curve, const std::vector<Observation>& points) {
  double n = 0, sum = 0, residual = 0, total = 0;
  for (const Observation& point : points)
    if (point.censored == Censored::No) {
      ++n;
      sum += point.y;
    }
  for (const Observation& point : points)
    if (point.censored == Censored::No) {
      residual += (point.y - curve(point.x)) * (point.y - curve(point.x));
      total += (point.y - sum / n) * (point.y - sum / n);
    }
  return total > 0 ? 1 - residual / total : std::numeric_limits<double>::quiet_NaN();
}

json describe_coefficients(const Curve& curve, const Bootstrap& bootstrap) {
  json out;
  for (const auto& [name, value] : curve.coefficients()) {
    const QuantileInterval interval = interval_of(
        bootstrap, [letter = name](const Curve& one) { return one.coefficients().at(letter); });
    out[name] = {{"value", value},
                 {"low", io::number_or_null(interval.low)},
                 {"high", io::number_or_null(interval.high)}};
  }
  return out;
}

json describe_paper(const Curve& curve) {
  const Curve paper = paper_curve(curve.law);
  json differences;
  for (const auto& [name, value] : curve.coefficients())
    differences[name] = value - paper.coefficients().at(name);
  return {{"coefficients", paper.coefficients()},
          {"difference", differences},
          {"r_squared_above", kPaperRSquared}};
}

/// In tokens, at sizes from 0 to the largest.
json describe_curve(const Curve& curve,
                    const Bootstrap& bootstrap,
                    const std::vector<Observation>& points) {
  const double most = std::ranges::max(points, {}, &Observation::x).x;
  json out;
  for (int64_t i = 0; i < kCurvePlaces; ++i) {
    const double x = most * static_cast<double>(i) / (kCurvePlaces - 1);
    const QuantileInterval interval =
        interval_of(bootstrap, [x](const Curve& one) { return one(x); });
    out["state_elements"].push_back(x * kElements);
    out["tokens"].push_back(io::number_or_null(curve(x) * kTokens));
    out["low_tokens"].push_back(io::number_or_null(interval.low * kTokens));
    out["high_tokens"].push_back(io::number_or_null(interval.high * kTokens));
    out["paper_tokens"].push_back(paper_curve(curve.law)(x) * kTokens);
  }
  return out;
}

json count_points(const std::vector<Observation>& points) {
  const auto count = [&](Censored kind) {
    return std::ranges::count(points, kind, &Observation::censored);
  };
  return {{"uncensored", count(Censored::No)},
          {"at_most", count(Censored::AtMost)},
          {"at_least", count(Censored::AtLeast)}};
}

}  // namespace

}  // namespace fitting

FitData read_fit_data(const FitOptions& options) {
  using namespace fitting;  // NOLINT
  if (options.results.empty())
    return published_points();
  const std::string schema = options.law == Law::Forget ? kPplByLengthSchema : "stuffed.passkey";
  FitData data;
  std::vector<fitting::Source> sources;
  std::vector<std::optional<int64_t>> seeds;  // of the sources
  for (size_t i = 0; i < options.results.size(); ++i)
    for (fitting::Source& source : read_sources(options.results[i], schema)) {
      sources.push_back(std::move(source));
      seeds.push_back(i < options.training_seeds.size() ? std::optional(options.training_seeds[i])
                                                        : std::nullopt);
    }
  check(!sources.empty(), Error::Kind::Input, "{}: holds no cell", options.results[0].string());
  check_alike(sources);
  data.settings_that_differ = settings_that_differ(sources);
  std::vector<fitting::Measured> models;
  for (size_t i = 0; i < sources.size(); ++i)
    explained(sources[i], [&] {
      models.push_back(measure(options, sources[i], seeds[i], data.models.emplace_back()));
    });
  data.points = points_of(options.law, models);
  return data;
}

std::pair<std::string, io::json> record_of(const FitPoint& point) {
  using io::json;
  const auto or_null = [](const auto& value) { return value ? json(*value) : json(); };
  std::string key = fmt::format("point/state={}", point.state_elements);
  if (point.seed)
    key += fmt::format("/seed={}", *point.seed);
  json record = {{"state_elements", point.state_elements},
                 {"seed", or_null(point.seed)},
                 {"tokens", point.tokens},
                 {"censored", point.censored},
                 {"low_tokens", or_null(point.low_tokens)},
                 {"high_tokens", or_null(point.high_tokens)},
                 {"models", point.models}};
  if (!point.collapse_beyond_tokens.empty())
    record["collapse_beyond_tokens"] = point.collapse_beyond_tokens;
  return {key, record};
}

io::json fit_law(Law law,
                 const std::vector<FitPoint>& points,
                 int64_t draws,
                 uint64_t seed,
                 const std::function<void(int64_t done)>& on_progress) {
  using namespace fitting;  // NOLINT
  std::vector<Observation> observations;
  for (const FitPoint& point : points)
    observations.push_back(observation_of(point));
  check_enough(law, observations);
  const std::optional<Curve> curve = fit_curve(law, observations);
  check(curve.has_value(), Error::Kind::Input,
        "no curve {} is the best of its form: the points step, or bend too little to tell c; "
        "measure sizes between",
        form_of(law));
  const Bootstrap bootstrap = draw_curves(law, observations, draws, seed, on_progress);
  return {{"form", form_of(law)},
          {"state_unit_elements", kElements},
          {"length_unit_tokens", kTokens},
          {"points", count_points(observations)},
          {"coefficients", describe_coefficients(*curve, bootstrap)},
          {"r_squared", io::number_or_null(r_squared(*curve, observations))},
          {"deviation_tokens", curve->deviation * kTokens},
          {"bootstrap", {{"draws", draws}, {"undetermined", draws - std::ssize(bootstrap.curves)}}},
          {"paper", describe_paper(*curve)},
          {"curve", describe_curve(*curve, bootstrap, observations)}};
}

}  // namespace stuffed::eval
