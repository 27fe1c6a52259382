// The same prompts, asked twice.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "src/eval/compare/intervals.h"
#include "src/eval/compare/paired.h"
#include "src/eval/compare/side.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::comparing {

namespace {

using Place = std::tuple<int64_t, int64_t, int64_t>;  // length, depth, trial

struct Trial {
  io::json expected;
  int64_t prompt_tokens = 0, needle_token = 0;
  bool is_correct = false, is_cut = false;
  double score = 0, nll = 0;

  bool same_prompt(const Trial& other) const {
    return expected == other.expected && prompt_tokens == other.prompt_tokens &&
           needle_token == other.needle_token;
  }
};

struct Answers {
  std::map<Place, Trial> trials;
  double effective_tokens = kUnknown;
};

bool is_passkey(const Side& side) {
  return side.schema == "stuffed.passkey";
}

Trial read_passkey(const io::json& record) {
  const bool is_correct = io::read_flag(record, "correct");
  return {.expected = io::read_text(record, "passkey"),
          .prompt_tokens = io::read_integer(record, "prompt_tokens", 1),
          .needle_token = io::read_integer(record, "needle_token"),
          .is_correct = is_correct,
          .is_cut = record.value("answer_cut", false),
          .score = is_correct ? 1.0 : 0.0,
          .nll = number_or_nan(record.at("answer_nll_nats"))};
}

Trial read_retrieval(const io::json& record) {
  return {.expected = {record.at("answers"), record.value("query", io::json())},
          .prompt_tokens = io::read_integer(record, "prompt_tokens", 1),
          .needle_token = record.value("needle_token", int64_t{-1}),
          .is_correct = io::read_flag(record, "correct"),
          .is_cut = record.value("answer_cut", false),
          .score = record.at("score").get<double>(),
          .nll = number_or_nan(record.at("answer_nll_nats"))};
}

Answers read_answers(const Side& side) {
  Answers answers;
  const int64_t depths = io::read_integer(side.config, "depths", 1, int64_t{1} << 24);
  side.each([&](const io::json& record) {
    (is_passkey(side) ? check_passkey_record : check_retrieval_record)(record, depths);
    const std::string key = record.at("key");
    if (key == "summary")
      answers.effective_tokens = number_in(record.at("effective_length"), "tokens");
    if (key.starts_with("summary"))
      return;
    const Place place = {io::read_integer(record, "length_tokens", 1),
                         io::read_integer(record, "depth_index"),
                         io::read_integer(record, "trial")};
    answers.trials[place] = (is_passkey(side) ? read_passkey : read_retrieval)(record);
  });
  return answers;
}

/// Trials by where they succeed.
struct Shares {
  int64_t both = 0, only_a = 0, only_b = 0, neither = 0;
  std::vector<double> nll_a, nll_b, score_a, score_b;

  void add(const Trial& a, const Trial& b) {
    nll_a.push_back(a.nll);
    nll_b.push_back(b.nll);
    if (a.is_cut || b.is_cut)  // cannot be found
      return;
    ++(a.is_correct ? b.is_correct ? both : only_a : b.is_correct ? only_b : neither);
    score_a.push_back(a.score);
    score_b.push_back(b.score);
  }
  /// Of trials that are right or wrong.
  ComparedValue accuracy() const {
    const int64_t trials = both + only_a + only_b + neither;
    const auto n = static_cast<double>(trials);
    const Interval95 interval = interval_of_shares(both, only_a, only_b, neither);
    return {.metric = "accuracy",
            .a = trials > 0 ? static_cast<double>(both + only_a) / n : kUnknown,
            .b = trials > 0 ? static_cast<double>(both + only_b) / n : kUnknown,
            .low = interval.low,
            .high = interval.high,
            .pairs = trials};
  }
  /// Of trials with a score between.
  ComparedValue mean_score() const {
    ComparedValue row = row_of_means("accuracy", score_a, score_b);
    if (score_a.empty())
      row.a = row.b = kUnknown;
    return row;
  }
  bool has_parts() const {
    const auto is_part = [](double score) { return score > 0 && score < 1; };
    return std::ranges::any_of(score_a, is_part) || std::ranges::any_of(score_b, is_part);
  }
  ComparedValue accuracy_or_score() const { return has_parts() ? mean_score() : accuracy(); }
  ComparedValue nll() const { return row_of_means("answer_nll_nats", nll_a, nll_b); }
};

void check_prompts(const Side& a, const Answers& of_a, const Side& b, const Answers& of_b) {
  for (const auto& [with, trials, without, others] :
       {std::tuple{&a, &of_a, &b, &of_b}, std::tuple{&b, &of_b, &a, &of_a}})
    for (const auto& [place, trial] : trials->trials) {
      const auto found = others->trials.find(place);
      check(found != others->trials.end() && found->second.same_prompt(trial), Error::Kind::Input,
            "{}: does not have the prompt len={}/depth={}/trial={} of {}; both runs must use the "
            "same prompts (tokenizer, --lengths, --depths, --trials, --grid, --seed and what else "
            "decides the task)",
            without->path.string(), std::get<0>(place), std::get<1>(place), std::get<2>(place),
            with->path.string());
    }
}

double drop_of(const ComparedValue& row) {
  return std::isfinite(row.a) && std::isfinite(row.b) ? row.a - row.b : 0.0;
}

/// `command` begins the names of metrics.
void compare_trials(const Side& a, const Side& b, std::string_view command, ResultComparison& out) {
  const auto raise = [&](std::string_view metric, double value) {
    raise_metric(out, fmt::format("{}_{}", command, metric).c_str(), value);
  };
  const Answers of_a = read_answers(a), of_b = read_answers(b);
  check_prompts(a, of_a, b, of_b);
  std::map<int64_t, Shares> lengths;
  Shares all;
  for (const auto& [place, trial] : of_a.trials) {
    const Trial& other = of_b.trials.at(place);
    lengths[std::get<0>(place)].add(trial, other);
    all.add(trial, other);
  }
  out.pairs = std::ssize(of_a.trials);
  out.pairs_of = "trials";
  out.rows.push_back(all.accuracy_or_score());
  raise("accuracy_drop", drop_of(out.rows.back()));
  out.rows.push_back(all.nll());
  raise_metric(out, "answer_nll_mean", growth(out.rows.back().a, out.rows.back().b));
  if (std::isfinite(of_a.effective_tokens) && std::isfinite(of_b.effective_tokens)) {
    out.rows.push_back({.metric = "effective_length_tokens",
                        .a = of_a.effective_tokens,
                        .b = of_b.effective_tokens});
    raise("length_drop", of_a.effective_tokens - of_b.effective_tokens);
  }
  for (const auto& [length, shares] : lengths)
    for (ComparedValue row : {shares.accuracy_or_score(), shares.nll()}) {
      row.axis = "length_tokens";
      row.at = fmt::format("{}", length);
      if (row.metric == "accuracy")
        raise("accuracy_drop_max", drop_of(row));
      out.rows.push_back(std::move(row));
    }
}

}  // namespace

void compare_passkey(const Side& a, const Side& b, ResultComparison& out) {
  for (const char* field : {"tokenizer", "protocol", "use_bos", "add_prefix"})
    check_same(a, b, field, "their prompts differ");
  compare_trials(a, b, "passkey", out);
}

void compare_retrieval(const Side& a, const Side& b, ResultComparison& out) {
  for (const char* field : {"task", "tokenizer", "text_sha256", "jsonl_sha256", "format"})
    check_same(a, b, field, "their prompts differ");
  compare_trials(a, b, "retrieval", out);
}

}  // namespace stuffed::eval::comparing
