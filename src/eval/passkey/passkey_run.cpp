// Asks the passkey prompts, and says what came of each.
#include <cmath>

#include "passkey_questions.h"
#include "passkey_summary.h"
#include "stuffed/eval/passkey.h"

namespace stuffed::eval {

namespace {

/// The first digits, after spaces, are the key.
bool is_exact(std::string_view prediction, std::string_view key) {
  const size_t first = prediction.find_first_not_of(' ');
  return first != prediction.npos && prediction.substr(first).starts_with(key);
}

io::json record_of(const PasskeyTrial& trial, const Answer& answer, const std::string& prediction) {
  io::json record = {{"length_tokens", trial.length_tokens},
                     {"prompt_tokens", trial.prompt_tokens},
                     {"total_tokens", trial.prompt_tokens + int64_t(answer.new_tokens.size())},
                     {"depth_index", trial.depth_index},
                     {"depth", trial.depth},
                     {"real_depth", trial.real_depth()},
                     {"trial", trial.trial},
                     {"blocks", trial.blocks},
                     {"position_blocks", trial.position_blocks},
                     {"repetition", trial.repetition},
                     {"needle_token", trial.needle_token},
                     {"passkey", trial.passkey},
                     {"prediction", prediction},
                     {"correct", prediction.find(trial.passkey) != prediction.npos},
                     {"exact", is_exact(prediction, trial.passkey)},
                     {"answer_nll_nats", answer.nll_nats},
                     {"answer_tokens", trial.answer.size()},
                     {"answer_tokens_right", answer.tokens_right}};
  if (trial.is_cut(int64_t(answer.new_tokens.size())))
    record["answer_cut"] = true;
  if (!std::isfinite(answer.nll_nats))
    record["finite"] = false;
  return record;
}

}  // namespace

Questions passkey_questions(const PasskeyTask& task, int64_t max_new_tokens) {
  return {.tree = task.tree,
          .max_new_tokens = max_new_tokens,
          .key = [&task](size_t prompt) { return task.trials[prompt].key(); },
          .answer = [&task](size_t prompt) -> const std::vector<int32_t>& {
            return task.trials[prompt].answer;
          },
          .record = {}};
}

TreeCount run_passkey(const RecurrentLM& model,
                      const Recurrence& rule,
                      const io::Tokenizer& tokenizer,
                      const PasskeyTask& task,
                      const PasskeyOptions& options,
                      const TreeLimits& limits,
                      io::Journal& journal,
                      Checkpoint& checkpoint,
                      const OnPromptProgress& on_progress) {
  Questions questions = passkey_questions(task, options.max_new_tokens);
  questions.record = [&](size_t prompt, const Answer& answer) {
    return record_of(task.trials[prompt], answer, tokenizer.decode(answer.new_tokens));
  };
  const TreeCount count =
      ask_prompts(model, rule, questions, limits, journal, checkpoint, on_progress);
  append_passkey_summaries(task.trials, options, journal);
  return count;
}

}  // namespace stuffed::eval
