// Asks the retrieval prompts, and says what came of each.
#include <algorithm>
#include <cmath>

#include "retrieval_questions.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace {

char lower(char c) {
  return 'A' <= c && c <= 'Z' ? char(c - 'A' + 'a') : c;
}

std::string lowered(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), lower);
  return out;
}

/// Of the strings in what was decoded.
void put_strings(io::json& record,
                 const RetrievalTrial& trial,
                 const Answer& answer,
                 const io::Tokenizer& tokenizer) {
  const std::string prediction = tokenizer.decode(answer.new_tokens);
  record["answers"] = trial.expected;
  record["found"] = strings_found(prediction, trial.expected);
  record["prediction"] = prediction;
  record["total_tokens"] = trial.prompt_tokens + std::ssize(answer.new_tokens);
  record["answer_nll_nats"] = trial.answer.empty() ? io::json() : io::json(answer.nll_nats);
  record["answer_tokens"] = trial.answer.size();
  record["answer_tokens_right"] = answer.tokens_right;
  if (!std::isfinite(answer.nll_nats))
    record["finite"] = false;
}

/// Of the tokens asked for, the true ones before them given.
void put_tokens(io::json& record, const RetrievalTrial& trial, const Answer& answer) {
  std::vector<int32_t> expected, likeliest;
  std::vector<bool> found;
  double nll = 0;
  for (const int64_t place : trial.scored) {
    expected.push_back(trial.answer[size_t(place)]);
    likeliest.push_back(answer.likeliest[size_t(place)]);
    found.push_back(expected.back() == likeliest.back());
    nll += answer.token_nll_nats[size_t(place)];
  }
  record["answers"] = expected;
  record["found"] = found;
  record["prediction"] = likeliest;
  record["total_tokens"] = trial.prompt_tokens + std::ssize(trial.answer);
  record["answer_nll_nats"] = nll;
  record["answer_tokens"] = trial.scored.size();
  record["answer_tokens_right"] = std::ranges::count(found, true);
  if (!std::isfinite(nll))
    record["finite"] = false;
}

io::json record_of(const RetrievalTrial& trial,
                   const Answer& answer,
                   const io::Tokenizer* tokenizer) {
  io::json record = trial.more.is_object() ? trial.more : io::json::object();
  record.update({{"length_tokens", trial.length_tokens},
                 {"prompt_tokens", trial.prompt_tokens},
                 {"depth_index", trial.depth_index},
                 {"trial", trial.trial},
                 {"repetition", trial.repetition}});
  if (trial.needle_token >= 0)
    record.update({{"depth", trial.depth},
                   {"real_depth", trial.real_depth},
                   {"needle_token", trial.needle_token}});
  if (trial.scored.empty())
    put_strings(record, trial, answer, *tokenizer);
  else
    put_tokens(record, trial, answer);
  const io::json& found = record["found"];
  const auto hits = std::ranges::count(found, io::json(true));
  record["correct"] = hits == std::ssize(found);
  record["score"] = double(hits) / double(found.size());
  if (trial.is_cut)
    record["answer_cut"] = true;
  return record;
}

}  // namespace

std::vector<bool> strings_found(std::string_view text, const std::vector<std::string>& expected) {
  const std::string in = lowered(text);
  std::vector<bool> found;
  for (const std::string& one : expected)
    found.push_back(in.find(lowered(one)) != in.npos);
  return found;
}

Questions retrieval_questions(const RetrievalTask& task, int64_t max_new_tokens) {
  return {.tree = task.tree,
          .max_new_tokens = max_new_tokens,
          .key = [&task](size_t prompt) { return task.trials[prompt].key(); },
          .answer = [&task](size_t prompt) -> const std::vector<int32_t>& {
            return task.trials[prompt].answer;
          },
          .record = {}};
}

TrialScore score_of_retrieval(const io::json& record) {
  const int64_t needle =
      record.contains("needle_token") ? io::read_integer(record, "needle_token") : int64_t{-1};
  return {
      .length_tokens = io::read_integer(record, "length_tokens", 1),
      .depth_index = io::read_integer(record, "depth_index"),
      .real_depth = record.value("real_depth", -1.0),
      .distance_tokens = needle < 0 ? -1 : io::read_integer(record, "prompt_tokens", 1) - needle,
      .is_cut = record.value("answer_cut", false),
      .score = record.at("score").get<double>(),
      .is_correct = io::read_flag(record, "correct"),
      .answer_nll_nats = record.at("answer_nll_nats")};
}

TreeCount run_retrieval(const RecurrentLM& model,
                        const Recurrence& rule,
                        const io::Tokenizer* tokenizer,
                        const RetrievalTask& task,
                        const RetrievalOptions& options,
                        const TreeLimits& limits,
                        io::Journal& journal,
                        Checkpoint& checkpoint,
                        const OnPromptProgress& on_progress) {
  Questions questions =
      retrieval_questions(task, is_recall(options.kind) ? 0 : options.max_new_tokens);
  questions.record = [&](size_t prompt, const Answer& answer) {
    return record_of(task.trials[prompt], answer, tokenizer);
  };
  const TreeCount count =
      ask_prompts(model, rule, questions, limits, journal, checkpoint, on_progress);
  std::vector<TrialScore> scores;
  for (const RetrievalTrial& trial : task.trials)
    scores.push_back(score_of_retrieval(journal.record(trial.key())));
  append_trial_summaries(scores, options.depths, journal);
  return count;
}

}  // namespace stuffed::eval
