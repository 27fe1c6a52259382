#include "passkey_summary.h"

namespace stuffed::eval {

namespace {

TrialScore score_of(const PasskeyTrial& trial, const io::json& record, int64_t max_new_tokens) {
  const bool is_correct = record.at("correct").get<bool>();
  return {.length_tokens = trial.length_tokens,
          .depth_index = trial.depth_index,
          .real_depth = trial.real_depth(),
          .distance_tokens = trial.prompt_tokens - trial.needle_token,
          .is_cut = trial.is_cut(max_new_tokens),
          .score = is_correct ? 1.0 : 0.0,
          .is_correct = is_correct,
          .is_exact = record.at("exact").get<bool>() ? 1 : 0,
          .answer_nll_nats = record.at("answer_nll_nats")};
}

}  // namespace

void append_passkey_summaries(const std::vector<PasskeyTrial>& trials,
                              const PasskeyOptions& options,
                              io::Journal& journal) {
  std::vector<TrialScore> scores;
  for (const PasskeyTrial& trial : trials)
    scores.push_back(score_of(trial, journal.record(trial.key()), options.max_new_tokens));
  append_trial_summaries(scores, options.depths, journal);
}

}  // namespace stuffed::eval
