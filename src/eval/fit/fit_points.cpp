#include "src/eval/fit/fit_points.h"

#include <algorithm>
#include <limits>
#include <map>

#include "stuffed/core/error.h"
#include "stuffed/eval/ppl_by_length.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::fitting {

namespace {

using io::json;

const json& summary_of(const Source& source) {
  const auto found = source.summaries.find("summary");
  check(found != source.summaries.end(), Error::Kind::Input, "{}: has no summary", source.name);
  return found->second;
}

std::vector<double> means_of(const json& summary) {
  std::vector<double> means;
  for (const json& mean : summary.at("mean_nll_nats"))
    means.push_back(mean.is_null() ? std::numeric_limits<double>::quiet_NaN() : mean.get<double>());
  return means;
}

/// The longest length that passes with all shorter ones; 0: none.
int64_t effective_length(const std::map<int64_t, json>& by_length,
                         const char* number,
                         double threshold) {
  int64_t effective = 0;
  for (const auto& [length, summary] : by_length) {
    if (summary.at("accuracy").is_null() || !(summary.at(number).get<double>() > threshold))
      break;
    effective = length;
  }
  return effective;
}

using Group = std::vector<size_t>;  // models, by training length

/// Models of one size and seed.
std::map<std::pair<int64_t, std::optional<uint64_t>>, Group> grouped(
    const std::vector<Measured>& models) {
  std::map<std::pair<int64_t, std::optional<uint64_t>>, Group> groups;
  for (size_t i = 0; i < models.size(); ++i)
    groups[{models[i].state_elements, models[i].seed}].push_back(i);
  for (auto& [unused, group] : groups) {
    std::ranges::sort(group, {}, [&](size_t i) { return models[i].train_len_tokens.value_or(0); });
    for (size_t i = 1; i < group.size(); ++i) {
      const Measured &a = models[group[i - 1]], &b = models[group[i]];
      check(a.train_len_tokens != b.train_len_tokens, Error::Kind::Input, "{} and {}: {}", a.name,
            b.name,
            a.sha256 == b.sha256
                ? "are of one model; give one of them"
                : fmt::format("are of models of one state size, training length and {} seed; {}",
                              a.seed ? "training" : "unknown",
                              a.seed ? "give one of them" : "tell them apart by --training-seed"));
    }
  }
  return groups;
}

/// Nothing if no model of the group was read far enough.
std::optional<FitPoint> forget_point(const std::vector<Measured>& models, const Group& group) {
  FitPoint point;
  std::optional<int64_t> longest;
  for (const size_t i : group) {
    if (!models[i].collapses)
      continue;
    const int64_t length = *models[i].train_len_tokens;
    longest = length;
    if (!*models[i].collapses)
      point.high_tokens = point.high_tokens.value_or(length);
    else if (point.high_tokens)
      point.collapse_beyond_tokens.push_back(length);
    else
      point.low_tokens = length;
  }
  if (!longest)
    return {};
  point.tokens = point.high_tokens.value_or(*longest);
  if (!point.high_tokens)
    point.censored = "at least";
  else if (!point.low_tokens)
    point.censored = "at most";
  return point;
}

/// Of the model that recalls farthest.
FitPoint recall_point(const std::vector<Measured>& models, const Group& group) {
  const Measured& best =
      models[*std::ranges::max_element(group, {}, [&](size_t i) { return models[i].tokens; })];
  FitPoint point{
      .tokens = best.tokens, .low_tokens = best.low_tokens, .high_tokens = best.high_tokens};
  if (best.tokens == best.longest_tokens) {
    point.censored = "at least";
  } else if (best.tokens == 0) {
    point.tokens = best.shortest_tokens;
    point.censored = "at most";
  }
  return point;
}

}  // namespace

void read_collapse(const Source& source, Measured& out, json& record) {
  const json& summary = summary_of(source);
  check(out.train_len_tokens.has_value(), Error::Kind::Input,
        "{}: does not say how long its model was trained; measure it again with --train-len",
        source.name);
  const int64_t bucket = io::read_integer(summary, "bucket_tokens", 1);
  const std::vector<double> means = means_of(summary);
  const int64_t length =
      io::read_integer(summary, "length_tokens", 1, bucket * static_cast<int64_t>(means.size()));
  check(bucket <= *out.train_len_tokens / 4, Error::Kind::Input,
        "{}: its buckets of {} tokens are wider than a quarter of the training length {}; measure "
        "it again with --bucket {} or less",
        source.name, bucket, *out.train_len_tokens,
        std::max<int64_t>(1, *out.train_len_tokens / 4));
  record["collapse"] = collapse_onset(means, bucket, length, *out.train_len_tokens);
  const json& onset = record["collapse"]["onset_tokens"];
  if (!onset.is_string())
    out.collapses = !onset.is_null();
}

void read_recall(const Source& source, double threshold, Measured& out, json& record) {
  std::map<int64_t, json> by_length;
  for (const auto& [key, summary] : source.summaries)
    if (key != "summary" && !summary.at("accuracy").is_null())
      by_length.emplace(io::read_integer(summary, "length_tokens", 1), summary);
  check(!by_length.empty(), Error::Kind::Input, "{}: has no length with an accuracy", source.name);
  out.tokens = effective_length(by_length, "accuracy", threshold);
  out.low_tokens = effective_length(by_length, "low", threshold);
  out.high_tokens = effective_length(by_length, "high", threshold);
  out.shortest_tokens = by_length.begin()->first;
  out.longest_tokens = by_length.rbegin()->first;
  record["effective_length"] = {{"threshold", threshold},
                                {"tokens", out.tokens},
                                {"low_tokens", out.low_tokens},
                                {"high_tokens", out.high_tokens}};
  record["shortest_tokens"] = out.shortest_tokens;
  record["longest_tokens"] = out.longest_tokens;
}

std::vector<FitPoint> points_of(Law law, const std::vector<Measured>& models) {
  std::vector<FitPoint> points;
  for (const auto& [what, group] : grouped(models)) {
    std::optional<FitPoint> point = law == Law::Forget ? forget_point(models, group)
                                                       : std::optional(recall_point(models, group));
    if (!point)
      continue;
    point->state_elements = what.first;
    point->seed = what.second;
    point->models = group;
    points.push_back(std::move(*point));
  }
  return points;
}

}  // namespace stuffed::eval::fitting
