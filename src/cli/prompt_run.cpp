#include "src/cli/prompt_run.h"

#include <algorithm>

#include "src/cli/document_evaluation.h"
#include "src/cli/print.h"
#include "src/cli/progress_line.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/state_bytes.h"
#include "stuffed/eval/what_fits.h"
#include "stuffed/models/registry.h"
#include "stuffed/recurrence/window.h"

namespace stuffed::cli {

namespace {

constexpr int64_t kMostOnCpu = 64;

eval::TreeLimits limits_of(const PromptOptions& options, int64_t state_bytes) {
  return {.states = options.state_memory_bytes / state_bytes,
          .batch = options.batch_size,
          .segment_tokens = options.model.segment};
}

/// Bytes of a state, by the skeleton where that says all: what a window remembers of a token only
/// the model tells.
int64_t planned_state_bytes(const PromptOptions& options, int64_t tokens, Context& context) {
  if (window_tokens(options.model.mitigations) == 0)
    return open_skeleton(options.model.model).model->initial_state(1).bytes();
  const auto model = context.models.open(options.model);
  return eval::state_bytes(*model, *open_rule(options.model, *model),
                           window_tokens(options.model.mitigations), tokens);
}

/// --batch-size auto as a number.
int64_t resolve_batch_size(const PromptOptions& options,
                           const RecurrentLM& model,
                           const Recurrence& rule,
                           const eval::Feeding& feeding,
                           const PromptWork& work) {
  if (!options.overwrite)
    if (const auto recorded = recorded_batch_size(options.output, work.schema))
      return *recorded;
  const int64_t most =
      model.device().is_cuda() ? work.most_prompts : std::min(work.most_prompts, kMostOnCpu);
  return eval::batch_that_fits(model, rule, feeding, most);
}

}  // namespace

void add_train_len(CLI::App& app, PromptOptions& options, const std::string& group) {
  add_size(app, "--train-len", options.train_len,
           "Training length of the model; recorded, and drawn in figures")
      ->group(group);
}

void add_prompt_options(CLI::App& app, PromptOptions& options) {
  add_size(app, "--state-memory", options.state_memory_bytes,
           "Bytes (not tokens) for the states held at one time, including what mitigations keep; "
           "more memory allows larger batches")
      ->default_str("4G")
      ->group("Evaluation");
  add_batch_size(app, options.batch_size,
                 "Maximum number of sequences per batch. auto: the most that fit in memory, found "
                 "once and recorded, so that the same command resumes with it; on a CPU at most 64")
      ->group("Evaluation");
  add_journal(app, "-o,--output", options.output,
              "Results, JSON Lines; - is standard output (which cannot be resumed)")
      ->group("Output");
  app.add_flag("--overwrite", options.overwrite, "Start over instead of resuming")->group("Output");
  add_save_every(app, options.save_every, "Output");
  app.add_flag("--dry-run", options.dry_run,
               "Print the number of prompts, their tokens and the tokens to feed as JSON, and "
               "exit; loads no weights, except with sliding_window")
      ->group("Output");
}

void dry_run(PromptOptions options, const PromptWork& work, Context& context, io::json more) {
  if (options.batch_size == 0)
    options.batch_size = kMostOnCpu;  // nothing is loaded that would say more
  eval::TreeLimits limits{.batch = options.batch_size, .segment_tokens = options.model.segment};
  io::json state_bytes;
  if (!options.model.model.empty()) {
    state_bytes = planned_state_bytes(options, work.longest_stream, context);
    limits = limits_of(options, state_bytes);
  }
  const eval::TreePlan plan = eval::plan_tree(work.tree, limits);
  io::json figures = {
      {"prompts", work.tree.prompts().size()}, {"prompt_tokens", work.tree.prompt_tokens()},
      {"tokens_to_feed", work.tokens_to_feed}, {"answers_cut", work.answers_cut},
      {"peak_states", plan.peak_states},       {"state_bytes", state_bytes},
      {"batches", plan.steps.size()},          {"nodes", work.tree.nodes().size()}};
  if (more.is_object())
    figures.update(more);
  cli::print(stdout, "{}\n", figures.dump());
}

void check_given(const PromptOptions& options, const std::string& command) {
  check(!options.model.model.empty(), Error::Kind::Usage, "{}: --model is required", command);
  check(!options.output.empty(), Error::Kind::Usage, "{}: -o OUT.jsonl is required", command);
}

eval::TreeLimits settle(PromptOptions& options,
                        const RecurrentLM& model,
                        const Recurrence& rule,
                        const PromptWork& work,
                        Context& context) {
  const int64_t state_bytes =
      eval::state_bytes(model, rule, window_tokens(options.model.mitigations), work.longest_stream);
  context.feeding = {
      .rows = options.batch_size,
      .segment_tokens = std::min(options.model.segment, work.longest_prompt),
      .state_bytes = state_bytes,
      .beside_bytes = std::min(options.state_memory_bytes, work.most_prompts * state_bytes)};
  if (options.batch_size == 0)
    options.batch_size = context.feeding->rows =
        resolve_batch_size(options, model, rule, *context.feeding, work);
  return limits_of(options, state_bytes);
}

io::json describe_prompts(const PromptOptions& options) {
  return {{"batch_size", options.batch_size},
          {"state_memory_bytes", options.state_memory_bytes},
          {"train_len_tokens", size_or_null(options.train_len)}};
}

io::Journal ask_and_finish(const PromptOptions& options,
                           const io::JournalHeader& header,
                           const Ask& ask,
                           const io::json& more) {
  io::Journal journal = io::Journal::open(options.output, header, options.overwrite);
  eval::Checkpoint checkpoint(journal, options.save_every);
  ProgressLine line;
  const eval::TreeCount count = ask(journal, checkpoint, [&](const eval::PromptProgress& progress) {
    line.show(fmt::format("{} of {} prompts", progress.prompts_done, progress.prompts),
              progress.tokens_done, progress.tokens, progress.tokens_done);
  });
  line.end();
  io::json end = {{"tokens_fed", count.tokens_fed},
                  {"peak_states", count.peak_states},
                  {"forward_calls", count.forward_calls}};
  end.update(more);
  journal.finish(end);
  checkpoint.remove();
  return journal;
}

}  // namespace stuffed::cli
