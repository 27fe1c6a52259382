// `stuffed passkey`: options, the dry run's figures and the heat map at the end.
#include "stuffed/eval/passkey.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/cli/document_evaluation.h"
#include "src/cli/print.h"
#include "src/cli/progress_line.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/eval/state_bytes.h"
#include "stuffed/eval/what_fits.h"
#include "stuffed/models/registry.h"
#include "stuffed/recurrence/window.h"

namespace stuffed::cli {

namespace {

struct Options {
  ModelOptions model;
  eval::PasskeyOptions task;
  std::string protocol = "ours", grid;  // empty: the protocol's own
  int64_t max_new_tokens = 0;           // 0: the protocol's own
  int64_t state_memory_bytes = int64_t{4} << 30;
  int64_t batch_size = 64;
  int64_t train_len = 0;
  bool dry_run = false, overwrite = false;
  double save_every = 600;  // seconds
  std::string output;
};

eval::PasskeyOptions task_of(const Options& options) {
  using eval::PasskeyGrid;
  using eval::PasskeyProtocol;
  eval::PasskeyOptions task = options.task;
  task.protocol = options.protocol == "ours"         ? PasskeyProtocol::Ours
                  : options.protocol == "paper-code" ? PasskeyProtocol::PaperCode
                                                     : PasskeyProtocol::PaperText;
  const bool ours = task.protocol == PasskeyProtocol::Ours;
  const std::string grid = !options.grid.empty() ? options.grid : ours ? "shared" : "per-length";
  task.grid = grid == "shared" ? PasskeyGrid::Shared : PasskeyGrid::PerLength;
  task.max_new_tokens = options.max_new_tokens > 0                    ? options.max_new_tokens
                        : task.protocol == PasskeyProtocol::PaperCode ? 5
                                                                      : 8;
  task.seed = options.model.seed;
  return task;
}

eval::TreeLimits limits_of(const Options& options, int64_t state_bytes) {
  return {.states = options.state_memory_bytes / state_bytes,
          .batch = options.batch_size,
          .segment_tokens = options.model.segment};
}

/// Tokens the longest prompt has with its answer.
int64_t longest_stream(const eval::PasskeyTask& task, const eval::PasskeyOptions& options) {
  int64_t longest = 0;
  for (const eval::PasskeyTrial& trial : task.trials)
    longest = std::max(
        longest, trial.prompt_tokens +
                     std::max(options.max_new_tokens, static_cast<int64_t>(trial.answer.size())));
  return longest;
}

/// Says so where answers cannot be found because too few tokens are decoded.
void warn_of_cut_answers(const eval::PasskeyTask& task, int64_t max_new_tokens) {
  const int64_t cut = task.answers_cut(max_new_tokens);
  size_t longest = 0;
  for (const eval::PasskeyTrial& trial : task.trials)
    longest = std::max(longest, trial.answer.size());
  if (cut > 0)
    cli::print(
        stderr,
        "passkey: {} of {} answers have up to {} tokens with this tokenizer, and only {} are "
        "decoded: they count in no accuracy; give --max-new-tokens {}\n",
        cut, task.trials.size(), longest, max_new_tokens, longest);
}

/// Bytes of a state, by the skeleton where that says all: what a window remembers of a token only
/// the model tells.
int64_t planned_state_bytes(const Options& options, int64_t tokens, Context& context) {
  if (window_tokens(options.model.mitigations) == 0)
    return open_skeleton(options.model.model).model->initial_state(1).bytes();
  const auto model = context.models.open(options.model);
  return eval::state_bytes(*model, *open_rule(options.model, *model),
                           window_tokens(options.model.mitigations), tokens);
}

/// Prints what a run would take. Without a model the memory of a state is unknown, and no limit
/// holds.
void dry_run(const Options& options, const eval::PasskeyOptions& task_options, Context& context) {
  const auto tokenizer = open_tokenizer(options.model);
  const eval::PasskeyTask task = eval::make_passkey(*tokenizer, task_options);
  warn_of_cut_answers(task, task_options.max_new_tokens);
  eval::TreeLimits limits{.batch = options.batch_size, .segment_tokens = options.model.segment};
  io::json state_bytes;
  if (!options.model.model.empty()) {
    state_bytes = planned_state_bytes(options, longest_stream(task, task_options), context);
    limits = limits_of(options, state_bytes);
  }
  const eval::TreePlan plan = eval::plan_tree(task.tree, limits);
  const io::json figures = {{"prompts", task.trials.size()},
                            {"prompt_tokens", task.tree.prompt_tokens()},
                            {"tokens_to_feed", task.tokens_to_feed(task_options.max_new_tokens)},
                            {"answers_cut", task.answers_cut(task_options.max_new_tokens)},
                            {"peak_states", plan.peak_states},
                            {"state_bytes", state_bytes},
                            {"batches", plan.steps.size()},
                            {"nodes", task.tree.nodes().size()}};
  cli::print(stdout, "{}\n", figures.dump());
}

/// How the journal that is resumed has placed its needles: one that holds records and does not say
/// was made before this was recorded.
eval::PasskeyPlacement placement_of(const Options& options) {
  std::error_code ignored;
  if (options.overwrite || !std::filesystem::is_regular_file(options.output, ignored))
    return eval::PasskeyPlacement::Nearest;
  int64_t records = 0;
  const io::JournalEnd end =
      io::read_journal(options.output, [&](const io::json&, io::LinePlace) { ++records; });
  return records > 0 && end.header.schema == "stuffed.passkey" &&
                 !end.header.config.contains("placement")
             ? eval::PasskeyPlacement::Floored
             : eval::PasskeyPlacement::Nearest;
}

io::json describe_task(const Options& options, const eval::PasskeyOptions& task) {
  io::json described = {{"lengths_tokens", task.lengths_tokens},
                        {"depths", task.depths},
                        {"trials", task.trials},
                        {"protocol", options.protocol},
                        {"grid", task.grid == eval::PasskeyGrid::Shared ? "shared" : "per-length"},
                        {"use_bos", task.use_bos},
                        {"add_prefix", task.add_prefix},
                        {"digits", task.digits},
                        {"max_new_tokens", task.max_new_tokens},
                        {"batch_size", options.batch_size},
                        {"state_memory_bytes", options.state_memory_bytes},
                        {"train_len_tokens", size_or_null(options.train_len)}};
  if (task.parts > 1)
    described["part"] = fmt::format("{}/{}", task.part, task.parts);
  if (task.placement == eval::PasskeyPlacement::Nearest)
    described["placement"] = "nearest";
  return described;
}

constexpr int64_t kMostOnCpu = 64;

/// Of any part of the run: all its parts find the same batch.
int64_t most_prompts(const eval::PasskeyOptions& task) {
  const int64_t trials = (task.trials + task.parts - 1) / task.parts;
  return std::ssize(task.lengths_tokens) * task.depths * trials;
}

/// --batch-size auto as a number.
int64_t resolve_batch_size(const Options& options,
                           const RecurrentLM& model,
                           const Recurrence& rule,
                           const eval::Feeding& feeding,
                           int64_t prompts) {
  if (!options.overwrite)
    if (const auto recorded = recorded_batch_size(options.output, "stuffed.passkey"))
      return *recorded;
  const int64_t most = model.device().is_cuda() ? prompts : std::min(prompts, kMostOnCpu);
  return eval::batch_that_fits(model, rule, feeding, most);
}

void run(Options options, Context& context) {
  eval::PasskeyOptions task_options = task_of(options);
  if (options.dry_run) {
    if (options.batch_size == 0)
      options.batch_size = kMostOnCpu;  // nothing is loaded that would say more
    return dry_run(options, task_options, context);
  }
  check(!options.model.model.empty(), Error::Kind::Usage, "passkey: --model is required");
  check(!options.output.empty(), Error::Kind::Usage, "passkey: -o OUT.jsonl is required");
  guard_inputs(options.model).writes("-o", options.output);
  const auto tokenizer = open_tokenizer(options.model);
  const auto model = context.models.open(options.model, tokenizer.get());
  check_vocabulary(*tokenizer, *model);
  check_stream_length(options.model, *std::ranges::max_element(task_options.lengths_tokens));
  const auto rule = open_rule(options.model, *model);
  task_options.placement = placement_of(options);
  const eval::PasskeyTask task = eval::make_passkey(*tokenizer, task_options);
  warn_of_cut_answers(task, task_options.max_new_tokens);
  const int64_t state_bytes = eval::state_bytes(
      *model, *rule, window_tokens(options.model.mitigations), longest_stream(task, task_options));
  const int64_t prompts = most_prompts(task_options);
  context.feeding = {
      .rows = options.batch_size,
      .segment_tokens =
          std::min(options.model.segment, *std::ranges::max_element(task_options.lengths_tokens)),
      .state_bytes = state_bytes,
      .beside_bytes = std::min(options.state_memory_bytes, prompts * state_bytes)};
  if (options.batch_size == 0)
    options.batch_size = context.feeding->rows =
        resolve_batch_size(options, *model, *rule, *context.feeding, prompts);

  io::json config = describe(options.model, *model);
  config["tokenizer"] = {{"kind", tokenizer->kind()}, {"sha256", tokenizer->hash()}};
  config.update(describe_task(options, task_options));
  io::Journal journal =
      io::Journal::open(options.output,
                        {.schema = "stuffed.passkey",
                         .version = 1,
                         .config = config,
                         .provenance = provenance_of(context.command_line, options.model, *model),
                         .check_record =
                             [&](const io::json& record) {
                               eval::check_passkey_record(record, task_options.depths);
                             }},
                        options.overwrite);
  eval::Checkpoint checkpoint(journal, options.save_every);
  ProgressLine line;
  const eval::TreeCount count = eval::run_passkey(
      *model, *rule, *tokenizer, task, task_options, limits_of(options, state_bytes), journal,
      checkpoint, [&](const eval::PasskeyProgress& progress) {
        line.show(fmt::format("{} of {} prompts", progress.prompts_done, progress.prompts),
                  progress.tokens_done, progress.tokens, progress.tokens_done);
      });
  line.end();
  journal.finish({{"tokens_fed", count.tokens_fed},
                  {"peak_states", count.peak_states},
                  {"forward_calls", count.forward_calls}});
  checkpoint.remove();
  cli::print(options.output == "-" ? stderr : stdout, "{}",
             eval::passkey_heat_map(task_options, journal));
}

void add_task_options(CLI::App& app, Options& options) {
  const char* const group = "Passkey";
  eval::PasskeyOptions& task = options.task;
  add_sizes(app, "--lengths", task.lengths_tokens, "Prompt lengths, such as 1K..128K:1K")
      ->required()
      ->group(group);
  add_count(app, "--depths", task.depths, "Needle positions per length")->group(group);
  add_count(app, "--trials", task.trials, "Samples per length and needle position")->group(group);
  add_part(app, task.part, task.parts, "Of each length and depth trials")->group(group);
  add_choice(app, "--protocol", options.protocol, {"ours", "paper-code", "paper-text"},
             "Prompt and rules: ours leaves room for the answer; paper-code is the published "
             "code's (5 new tokens); paper-text is the prompt printed in the paper")
      ->group(group);
  app.add_option("--grid", options.grid,
                 "shared: lengths share needles, so one stream answers many; per-length: every "
                 "sample has its own (default: shared for ours, per-length for the paper's)")
      ->check(CLI::IsMember({"shared", "per-length"}).description(""))
      ->type_name("shared|per-length")
      ->group(group);
  app.add_flag("--use-bos", task.use_bos, "Put the text <|endoftext|> in front of the prompt")
      ->group(group);
  app.add_flag("--add-prefix", task.add_prefix,
               "Put 1200 sentences of filler in front of the prompt")
      ->group(group);
  add_count(app, "--digits", task.digits, "Digits in the passkey")->group(group);
  add_count(app, "--max-new-tokens", options.max_new_tokens,
            "Tokens decoded greedily (default: 8; 5 for paper-code)")
      ->group(group);
  add_size(app, "--train-len", options.train_len,
           "Training length of the model; recorded, and drawn in figures")
      ->group(group);
}

}  // namespace

void add_passkey(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "passkey",
      "Passkey retrieval: find a number hidden in filler text, at every length and depth; text "
      "that prompts share is fed once",
      "  stuffed passkey --model DIR --lengths 1K..128K:1K -o passkey.jsonl\n"
      "  stuffed passkey --model DIR --lengths 1K,2K,256K --depths 40 --trials 5 --train-len 8K -o "
      "passkey.jsonl\n"
      "  stuffed passkey --tokenizer tokenizer.json --lengths 1K..128K:1K --dry-run\n"
      "\nA trial is correct if the key occurs in the decoded tokens. If the run is killed, run the "
      "same "
      "command again: it resumes.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model, false);
  add_task_options(*app, *options);
  add_size(*app, "--state-memory", options->state_memory_bytes,
           "Bytes for the states held at a time, mitigations' included; more gives wider batches")
      ->default_str("4G")
      ->group("Evaluation");
  add_batch_size(*app, options->batch_size,
                 "Most sequences per batch. auto: the most that fit the memory, found once and "
                 "recorded as a number, which the same command takes again; on a CPU 64 at most")
      ->group("Evaluation");
  add_journal(*app, "-o,--output", options->output,
              "Results, JSON Lines; - is standard output (which cannot be resumed)")
      ->group("Output");
  app->add_flag("--overwrite", options->overwrite, "Start over instead of resuming")
      ->group("Output");
  add_save_every(*app, options->save_every, "Output");
  app->add_flag("--dry-run", options->dry_run,
                "Print the number of prompts, their tokens and the tokens to feed as JSON, and "
                "stop; loads no weights except for sliding_window")
      ->group("Output");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
