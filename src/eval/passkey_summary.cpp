#include "passkey_summary.h"

#include <cmath>
#include <set>

namespace stuffed::eval {

namespace {

constexpr double kEffective = 0.95;  // accuracy above which a length counts as solved

struct Score {
  int64_t trials = 0, correct = 0, exact = 0;
  double nll_nats = 0;  // sum over the trials
  int64_t finite = 0;   // trials whose nll is finite; the sum is theirs

  void add(const io::json& record) {
    ++trials;
    correct += record.at("correct").get<bool>() ? 1 : 0;
    exact += record.at("exact").get<bool>() ? 1 : 0;
    if (record.at("answer_nll_nats").is_number()) {
      nll_nats += record.at("answer_nll_nats").get<double>();
      ++finite;
    }
  }
  double accuracy() const { return double(correct) / double(trials); }
};

/// null: no trial, hence no accuracy.
io::json describe(const Score& score) {
  if (score.trials == 0)
    return nullptr;
  const Interval interval = wilson(score.correct, score.trials);
  return {{"trials", score.trials},
          {"correct", score.correct},
          {"accuracy", score.accuracy()},
          {"low", interval.low},
          {"high", interval.high}};
}

io::json summary_of_length(int64_t length, const std::vector<Score>& depths) {
  Score all;
  io::json cells = io::json::array();
  for (size_t i = 0; i < depths.size(); ++i) {
    all.trials += depths[i].trials;
    all.correct += depths[i].correct;
    all.exact += depths[i].exact;
    all.nll_nats += depths[i].nll_nats;
    all.finite += depths[i].finite;
    cells.push_back(describe(depths[i]));
  }
  io::json summary = describe(all);
  summary["length_tokens"] = length;
  summary["exact_accuracy"] = double(all.exact) / double(all.trials);
  summary["finite_trials"] = all.finite;
  if (all.finite > 0)
    summary["mean_answer_nll_nats"] = all.nll_nats / double(all.finite);
  summary["depths"] = cells;  // in the order of depth_index
  return summary;
}

std::string key_of(int64_t length) {
  return fmt::format("summary/len={}", length);
}

/// The longest length whose accuracy, or an end of its interval, is above the bound; 0 if none.
io::json effective_length(const std::set<int64_t>& lengths, const io::Results& results) {
  io::json found = {
      {"threshold", kEffective}, {"tokens", 0}, {"low_tokens", 0}, {"high_tokens", 0}};
  for (const int64_t length : lengths) {
    const io::json summary = results.record(key_of(length));
    for (const auto& [field, number] :
         {std::pair{"tokens", "accuracy"}, {"low_tokens", "low"}, {"high_tokens", "high"}})
      if (summary.at(number).get<double>() > kEffective)
        found[field] = length;
  }
  return found;
}

/// Accuracy over length for needles within the last l tokens, l the powers of two from 1/16 to 1/2
/// of the longest length; null where a length has no such sample, or is shorter than l.
io::json last_tokens_curves(const std::vector<PasskeyTrial>& trials,
                            const std::set<int64_t>& lengths,
                            const io::Results& results) {
  std::map<int64_t, std::map<int64_t, Score>> scores;  // by l, by length
  for (const PasskeyTrial& trial : trials) {
    const io::json record = results.record(trial.key());
    const int64_t distance = trial.prompt_tokens - trial.needle_token;
    for (int64_t last = 1; last <= *lengths.rbegin() / 2; last *= 2)
      if (16 * last >= *lengths.rbegin() && last <= trial.length_tokens && distance <= last)
        scores[last][trial.length_tokens].add(record);
  }
  io::json curves = io::json::array();
  for (auto& [last, by_length] : scores) {
    io::json points = io::json::array();
    for (const int64_t length : lengths)
      points.push_back(describe(by_length[length]));
    curves.push_back({{"last_tokens", last}, {"points", points}});
  }
  return curves;
}

}  // namespace

Interval wilson(int64_t successes, int64_t trials) {
  if (trials == 0)
    return {0, 1};
  constexpr double z = 1.959963984540054;  // 97.5 % quantile of the normal distribution
  const auto n = double(trials);
  const double p = double(successes) / n;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

void append_passkey_summaries(const std::vector<PasskeyTrial>& trials,
                              const PasskeyOptions& options,
                              io::Results& results) {
  std::map<int64_t, std::vector<Score>> scores;
  std::set<int64_t> lengths;
  for (const PasskeyTrial& trial : trials) {
    auto& depths = scores[trial.length_tokens];
    depths.resize(size_t(options.depths));
    depths[size_t(trial.depth_index)].add(results.record(trial.key()));
    lengths.insert(trial.length_tokens);
  }
  for (const auto& [length, depths] : scores)
    if (!results.done(key_of(length)))
      results.append(key_of(length), summary_of_length(length, depths));
  if (!results.done("summary"))
    results.append("summary", {{"lengths_tokens", lengths},
                               {"effective_length", effective_length(lengths, results)},
                               {"last_tokens", last_tokens_curves(trials, lengths, results)}});
}

std::string passkey_heat_map(const PasskeyOptions& options, const io::Results& results) {
  static constexpr const char* kShades[] = {"\u00b7", "\u2591", "\u2592", "\u2593", "\u2588"};
  const std::set<int64_t> lengths(options.lengths_tokens.begin(), options.lengths_tokens.end());
  std::vector<std::string> rows(size_t(options.depths));
  for (const int64_t length : lengths) {
    const io::json summary = results.record(key_of(length));
    for (size_t depth = 0; depth < rows.size(); ++depth) {
      const io::json& cell = summary.at("depths").at(depth);
      rows[depth] +=
          cell.is_null() ? "?" : kShades[int(std::floor(cell.at("accuracy").get<double>() * 4))];
    }
  }
  std::string map = "depth\n";
  for (size_t depth = 0; depth < rows.size(); ++depth)
    map += fmt::format("{:4.0f}% {}\n", 100 * (double(depth) + 0.5) / double(options.depths),
                       rows[depth]);
  return map + fmt::format(
                   "      {} to {} tokens; \u00b7 below 25 %, \u2591 25 %, \u2592 50 %, "
                   "\u2593 75 %, \u2588 all found, ? no data\n",
                   *lengths.begin(), *lengths.rbegin());
}

}  // namespace stuffed::eval
