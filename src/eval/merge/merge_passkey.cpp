// Summaries of passkey and retrieval trials that were asked in several runs.
#include <algorithm>

#include "src/eval/merge/parts.h"
#include "src/eval/passkey/passkey_summary.h"
#include "src/eval/retrieval/retrieval_questions.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::merging {

namespace {

/// As far as summaries need it: of the answer only how long it is.
PasskeyTrial trial_of(const io::json& record) {
  PasskeyTrial trial;
  trial.length_tokens = io::read_integer(record, "length_tokens", 1);
  trial.depth_index = io::read_integer(record, "depth_index");
  trial.trial = io::read_integer(record, "trial");
  trial.blocks = io::read_integer(record, "blocks", 1);
  trial.position_blocks = io::read_integer(record, "position_blocks", 0, trial.blocks - 1);
  trial.prompt_tokens = io::read_integer(record, "prompt_tokens", 1);
  trial.needle_token = io::read_integer(record, "needle_token");
  trial.answer.resize(static_cast<size_t>(io::read_integer(record, "answer_tokens", 0, 1 << 20)));
  return trial;
}

}  // namespace

void merge_passkey(const std::vector<Part>& parts, io::Journal& journal) {
  PasskeyOptions options;
  const io::json& config = parts.front().header.config;
  options.depths = io::read_integer(config, "depths", 1);
  options.max_new_tokens = io::read_integer(config, "max_new_tokens", 1);
  std::vector<PasskeyTrial> trials;
  for (const Part& part : parts)
    for (const auto& [key, record] : part.records)
      if (!key.starts_with("summary"))
        trials.push_back(trial_of(record));
  std::ranges::sort(trials, {}, [](const PasskeyTrial& trial) {
    return std::tuple(trial.length_tokens, trial.depth_index, trial.trial);
  });
  append_passkey_summaries(trials, options, journal);
  journal.finish();
}

void merge_retrieval(const std::vector<Part>& parts, io::Journal& journal) {
  const int64_t depths = io::read_integer(parts.front().header.config, "depths", 1);
  std::map<std::tuple<int64_t, int64_t, int64_t>, TrialScore> scores;  // in the order of one run
  for (const Part& part : parts)
    for (const auto& [key, record] : part.records) {
      if (key.starts_with("summary"))
        continue;
      check_retrieval_record(record, depths);
      const TrialScore score = score_of_retrieval(record);
      scores[{score.length_tokens, score.depth_index, io::read_integer(record, "trial")}] = score;
    }
  std::vector<TrialScore> trials;
  for (const auto& [place, score] : scores)
    trials.push_back(score);
  append_trial_summaries(trials, depths, journal);
  journal.finish();
}

}  // namespace stuffed::eval::merging
