// Results whose records are paired by key alone: training, verification, times.
#include <algorithm>
#include <cmath>

#include "src/eval/compare/side.h"
#include "stuffed/core/error.h"

namespace stuffed::eval::comparing {

namespace {

/// Records by key, in the order of the journal.
using Records = std::vector<std::pair<std::string, io::json>>;

Records read_records(const Side& side) {
  Records records;
  side.each([&](const io::json& record) { records.emplace_back(record.at("key"), record); });
  return records;
}

/// Errors  Input if a record has no partner
std::vector<std::pair<io::json, io::json>> pair_records(const Side& a, const Side& b) {
  const Records of_a = read_records(a);
  std::map<std::string, io::json> of_b;
  for (auto& [key, record] : read_records(b))
    of_b.emplace(key, record);
  std::vector<std::pair<io::json, io::json>> pairs;
  for (const auto& [key, record] : of_a) {
    const auto found = of_b.find(key);
    check(found != of_b.end(), Error::Kind::Input, "{}: has no record '{}', which {} has",
          b.path.string(), key, a.path.string());
    pairs.emplace_back(record, found->second);
    of_b.erase(found);
  }
  check(of_b.empty(), Error::Kind::Input, "{}: has no record '{}', which {} has", a.path.string(),
        of_b.empty() ? "" : of_b.begin()->first, b.path.string());
  return pairs;
}

ComparedValue row_of(
    const std::string& metric, const std::string& axis, const std::string& at, double a, double b) {
  return {.metric = metric, .axis = axis, .at = at, .a = a, .b = b, .pairs = 1};
}

}  // namespace

void compare_train(const Side& a, const Side& b, ResultComparison& out) {
  for (const char* field :
       {"text_sha256", "held_out_sha256", "mix", "window_tokens", "batch", "seed"})
    check_same(a, b, field, "they were trained on different tokens");
  const auto pairs = pair_records(a, b);
  int64_t last_validation = 0;
  for (const auto& [of_a, of_b] : pairs)
    if (of_a.contains("source"))
      last_validation = std::max(last_validation, of_a.at("step").get<int64_t>());
  double loss_last = 0;
  for (const auto& [of_a, of_b] : pairs)
    if (!of_a.contains("source")) {
      const double left = number_in(of_a, "loss_nats"), right = number_in(of_b, "loss_nats");
      out.rows.push_back(row_of("loss_nats", "step", of_a.at("step").dump(), left, right));
      loss_last = growth(left, right);
    } else {
      for (const char* field : {"within_length_nats", "beyond_length_nats"}) {
        if (!of_a.contains(field) || !of_b.contains(field))
          continue;
        const double left = number_in(of_a, field), right = number_in(of_b, field);
        out.rows.push_back(row_of(of_a.at("source").get<std::string>() + "." + field, "step",
                                  of_a.at("step").dump(), left, right));
        if (of_a.at("step") == last_validation)
          raise_metric(out, "validation_max", growth(left, right));
      }
    }
  raise_metric(out, "loss_last", loss_last);
  out.pairs = std::ssize(pairs);
  out.pairs_of = "records";
}

void compare_verify(const Side& a, const Side& b, ResultComparison& out) {
  const auto pairs = pair_records(a, b);
  int64_t more = 0;
  for (const auto& [of_a, of_b] : pairs) {
    const std::string key = of_a.at("key");
    for (const char* field : {"output_relative_rms", "state_relative_rms"})
      if (of_a.contains(field) && of_b.contains(field))
        out.rows.push_back(
            row_of(field, "key", key, number_in(of_a, field), number_in(of_b, field)));
    more += (of_b.at("verdict") == "DISAGREES") && (of_a.at("verdict") != "DISAGREES");
  }
  raise_metric(out, "disagreements", static_cast<double>(more));
  out.pairs = std::ssize(pairs);
  out.pairs_of = "records";
}

void compare_bench(const Side& a, const Side& b, ResultComparison& out) {
  const auto pairs = pair_records(a, b);
  for (const auto& [of_a, of_b] : pairs) {
    const double left = number_in(of_a, "seconds_median"),
                 right = number_in(of_b, "seconds_median");
    out.rows.push_back(row_of("seconds", "key", of_a.at("key"), left, right));
    raise_metric(out, "slowdown_max", growth(left, right) / left);
  }
  out.pairs = std::ssize(pairs);
  out.pairs_of = "records";
}

}  // namespace stuffed::eval::comparing
