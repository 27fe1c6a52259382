// What the commands that ask many prompts have in common: how wide they feed them, what a dry run
// says, and how a run begins and ends.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/prompt_progress.h"
#include "stuffed/eval/prompt_tree.h"

namespace stuffed::cli {

struct PromptOptions {
  ModelOptions model;
  int64_t state_memory_bytes = int64_t{4} << 30;
  int64_t batch_size = 64;  // 0: auto
  int64_t train_len = 0;
  bool dry_run = false, overwrite = false;
  double save_every = 600;  // seconds
  std::string output;
};

/// --train-len, in the group of the command's own options.
void add_train_len(CLI::App& app, PromptOptions& options, const std::string& group);
/// --state-memory, --batch-size, -o and what else belongs to the run.
void add_prompt_options(CLI::App& app, PromptOptions& options);

/// What there is to ask.
struct PromptWork {
  std::string schema;
  const eval::PromptTree& tree;
  int64_t tokens_to_feed = 0;  // answers included
  int64_t answers_cut = 0;
  int64_t longest_prompt = 0, longest_stream = 0;  // tokens; with the answer
  int64_t most_prompts = 0;  // of any part of the run, so that all find the same batch
};

/// Prints what a run would take. Without a model the memory of a state is unknown, and no limit
/// holds.
void dry_run(PromptOptions options, const PromptWork& work, Context& context, io::json more = {});

/// Errors  Usage without --model or -o, or if results would take the place of what is read
void check_given(const PromptOptions& options, const std::string& command);

/// Settles --batch-size; returns how many states of one sequence fit, and how they are fed.
eval::TreeLimits settle(PromptOptions& options,
                        const RecurrentLM& model,
                        const Recurrence& rule,
                        const PromptWork& work,
                        Context& context);

/// For the header: what the shared options say.
io::json describe_prompts(const PromptOptions& options);

using Ask = std::function<eval::TreeCount(
    io::Journal& journal, eval::Checkpoint& checkpoint, const eval::OnPromptProgress& on_progress)>;

/// Begins or resumes the journal, asks, and ends it; `more` goes into its end line. Returns the
/// journal, which has its summaries.
io::Journal ask_and_finish(const PromptOptions& options,
                           const io::JournalHeader& header,
                           const Ask& ask,
                           const io::json& more = io::json::object());

}  // namespace stuffed::cli
