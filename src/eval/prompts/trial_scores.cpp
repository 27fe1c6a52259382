#include "stuffed/eval/trial_scores.h"

#include <cmath>
#include <map>
#include <set>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

// Each takes memory before anything runs; the paper's figure has 25,600.
constexpr int64_t kMostPrompts = 16'777'216;
constexpr double kEffective = 0.95;  // accuracy above which a length counts as solved

/// Sums over trials.
struct Score {
  int64_t trials = 0, correct = 0, exact = 0;
  double score = 0;
  int64_t cut = 0;        // trials left out: their answers have more tokens than were decoded
  double real_depth = 0;  // sum over all trials, those left out as well
  double nll_nats = 0;    // sum over all trials with a finite one
  int64_t finite = 0;
  bool has_exact = false, has_place = false;

  void add(const TrialScore& trial) {
    cut += trial.is_cut ? 1 : 0;
    trials += trial.is_cut ? 0 : 1;
    correct += !trial.is_cut && trial.is_correct ? 1 : 0;
    exact += !trial.is_cut && trial.is_exact > 0 ? 1 : 0;
    score += trial.is_cut ? 0 : trial.score;
    has_exact = has_exact || trial.is_exact >= 0;
    has_place = has_place || trial.real_depth >= 0;
    real_depth += trial.real_depth;
    if (trial.answer_nll_nats.is_number()) {
      nll_nats += trial.answer_nll_nats.get<double>();
      ++finite;
    }
  }
  void add(const Score& other) {
    trials += other.trials;
    correct += other.correct;
    exact += other.exact;
    score += other.score;
    cut += other.cut;
    real_depth += other.real_depth;
    nll_nats += other.nll_nats;
    finite += other.finite;
    has_exact = has_exact || other.has_exact;
    has_place = has_place || other.has_place;
  }
  io::json share(double of) const {  // null: of nothing
    return trials == 0 ? io::json() : io::json(of / double(trials));
  }
};

/// null: no trial, hence no accuracy.
io::json describe(const Score& score) {
  if (score.trials == 0)
    return nullptr;
  const ProportionInterval interval = wilson(score.score, score.trials);
  return {{"trials", score.trials},
          {"correct", score.correct},
          {"accuracy", score.share(score.score)},
          {"low", interval.low},
          {"high", interval.high}};
}

io::json describe_cell(const Score& score) {
  io::json cell = describe(score);
  if (!cell.is_null() && score.has_place)
    cell["real_depth"] = score.real_depth / double(score.trials + score.cut);
  return cell;
}

io::json summary_of_length(int64_t length, const std::vector<Score>& depths) {
  Score all;
  io::json cells = io::json::array();
  for (const Score& depth : depths) {
    all.add(depth);
    cells.push_back(describe_cell(depth));
  }
  io::json summary = describe(all);
  if (summary.is_null())
    summary = {{"trials", 0}, {"correct", 0}, {"accuracy", nullptr}, {"low", 0.0}, {"high", 1.0}};
  summary["answers_cut"] = all.cut;
  summary["length_tokens"] = length;
  if (all.has_exact)
    summary["exact_accuracy"] = all.share(double(all.exact));
  summary["finite_trials"] = all.finite;
  if (all.finite > 0)
    summary["mean_answer_nll_nats"] = all.nll_nats / double(all.finite);
  summary["depths"] = cells;  // in the order of depth_index
  return summary;
}

std::string key_of(int64_t length) {
  return fmt::format("summary/len={}", length);
}

/// The longest length that passes, 0 if none: whose accuracy, or an end of its interval, is above
/// the bound; with all shorter ones, and whatever they do ("longest").
io::json effective_length(const std::set<int64_t>& lengths, const io::Journal& journal) {
  io::json found = {{"threshold", kEffective}};
  for (const auto& [field, number] :
       {std::pair{"tokens", "accuracy"}, {"low_tokens", "low"}, {"high_tokens", "high"}}) {
    int64_t unbroken = 0, longest = 0;
    bool is_unbroken = true;
    for (const int64_t length : lengths) {
      const io::json summary = journal.record(key_of(length));
      const bool passes =
          !summary.at("accuracy").is_null() && summary.at(number).get<double>() > kEffective;
      is_unbroken = is_unbroken && passes;
      unbroken = is_unbroken ? length : unbroken;
      longest = passes ? length : longest;
    }
    found[field] = unbroken;
    found[std::string("longest_") + field] = longest;
  }
  return found;
}

/// Accuracy over length for needles within the last l tokens, l the powers of two from 1/16 to 1/2
/// of the longest length; null where a length has no such sample, or is shorter than l.
io::json last_tokens_curves(const std::vector<TrialScore>& trials,
                            const std::set<int64_t>& lengths) {
  std::map<int64_t, std::map<int64_t, Score>> scores;  // by l, by length
  for (const TrialScore& trial : trials)
    for (int64_t last = 1; trial.distance_tokens >= 0 && last <= *lengths.rbegin() / 2; last *= 2)
      if (16 * last >= *lengths.rbegin() && last <= trial.length_tokens &&
          trial.distance_tokens <= last)
        scores[last][trial.length_tokens].add(trial);
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

void check_trial_counts(const char* command, const TrialCounts& counts) {
  check(counts.lengths > 0 && counts.depths > 0 && counts.trials > 0, Error::Kind::Usage,
        "{}: lengths, depths and trials must be at least one each", command);
  check(double(counts.lengths) * double(counts.depths) * double(counts.trials) <=
            double(kMostPrompts),
        Error::Kind::Usage,
        "{}: {} lengths x {} depths x {} trials are too many prompts, at most {} can be planned; "
        "lower --depths or --trials",
        command, counts.lengths, counts.depths, counts.trials, kMostPrompts);
  check(counts.part < counts.parts && counts.parts <= counts.trials, Error::Kind::Usage,
        "--part {}/{}: takes trials of each length and depth, of which there are {}; give at most "
        "as many parts",
        counts.part, counts.parts, counts.trials);
}

ProportionInterval wilson(double successes, int64_t trials) {
  if (trials == 0)
    return {0, 1};
  constexpr double z = 1.959963984540054;  // 97.5 % quantile of the normal distribution
  const auto n = double(trials);
  const double p = successes / n;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

void append_trial_summaries(const std::vector<TrialScore>& trials,
                            int64_t depths,
                            io::Journal& journal) {
  std::map<int64_t, std::vector<Score>> scores;
  std::set<int64_t> lengths;
  for (const TrialScore& trial : trials) {
    auto& of_length = scores[trial.length_tokens];
    of_length.resize(size_t(depths));
    of_length[size_t(trial.depth_index)].add(trial);
    lengths.insert(trial.length_tokens);
  }
  int64_t cut = 0;
  for (const auto& [length, of_length] : scores) {
    if (!journal.done(key_of(length)))
      journal.append(key_of(length), summary_of_length(length, of_length));
    cut += journal.record(key_of(length)).value("answers_cut", int64_t{0});
  }
  if (!journal.done("summary"))
    journal.append("summary", {{"lengths_tokens", lengths},
                               {"answers_cut", cut},
                               {"effective_length", effective_length(lengths, journal)},
                               {"last_tokens", last_tokens_curves(trials, lengths)}});
}

std::string heat_map(const std::vector<int64_t>& lengths_tokens,
                     int64_t depths,
                     const io::Journal& journal) {
  static constexpr const char* kShades[] = {"\u00b7", "\u2591", "\u2592", "\u2593", "\u2588"};
  const std::set<int64_t> lengths(lengths_tokens.begin(), lengths_tokens.end());
  std::vector<std::string> rows(static_cast<size_t>(depths));
  for (const int64_t length : lengths) {
    const io::json summary = journal.record(key_of(length));
    for (size_t depth = 0; depth < rows.size(); ++depth) {
      const io::json& cell = summary.at("depths").at(depth);
      rows[depth] +=
          cell.is_null() ? "?" : kShades[int(std::floor(cell.at("accuracy").get<double>() * 4))];
    }
  }
  std::string map = "depth\n";
  for (size_t depth = 0; depth < rows.size(); ++depth)
    map += fmt::format("{:4.0f}% {}\n", 100 * (double(depth) + 0.5) / double(depths), rows[depth]);
  return map + fmt::format(
                   "      {} to {} tokens; \u00b7 below 25 %, \u2591 25 %, \u2592 50 %, "
                   "\u2593 75 %, \u2588 all found, ? no data\n",
                   *lengths.begin(), *lengths.rbegin());
}

}  // namespace stuffed::eval
