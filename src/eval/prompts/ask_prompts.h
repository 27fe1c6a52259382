// Asks the prompts of a tree: greedy decoding from each prompt's state, and the loss of the true
// answer from the same state.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "stuffed/eval/prompt_progress.h"
#include "stuffed/eval/prompt_tree.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval {

/// What a model made of one prompt.
struct Answer {
  std::vector<int32_t> new_tokens = {};  // decoded greedily
  double nll_nats = 0;                   // of the whole true answer
  int64_t tokens_right = 0;              // likeliest, the true ones before them given
  std::vector<int32_t> likeliest = {};   // at each token of the true answer, likewise
  std::vector<double> token_nll_nats = {};
};

/// What is asked after each prompt; prompts are named by their numbers in the tree.
struct Questions {
  const PromptTree& tree;
  int64_t max_new_tokens = 0;  // 0: nothing is decoded
  /// Of the prompt's record.
  std::function<std::string(size_t prompt)> key;
  /// The true answer's tokens; none: it has no loss.
  std::function<const std::vector<int32_t>&(size_t prompt)> answer;
  std::function<io::json(size_t prompt, const Answer& answer)> record;
};

/// Appends the record of every prompt whose record is missing. Tokens fed include those of answers.
/// Errors  Interrupted, with what it takes to go on in `checkpoint`
TreeCount ask_prompts(const RecurrentLM& model,
                      const Recurrence& rule,
                      const Questions& questions,
                      const TreeLimits& limits,
                      io::Journal& journal,
                      Checkpoint& checkpoint,
                      const OnPromptProgress& on_progress);

/// Tokens ask_prompts() feeds: the tree's, and each distinct prompt's answer, decoded and scored.
int64_t tokens_to_feed(const Questions& questions);

}  // namespace stuffed::eval
