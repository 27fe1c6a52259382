// `stuffed passkey`: options, and the heat map at the end.
#include "stuffed/eval/passkey.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/cli/print.h"
#include "src/cli/prompt_run.h"
#include "stuffed/eval/check_records.h"

namespace stuffed::cli {

namespace {

struct Options {
  PromptOptions run;
  eval::PasskeyOptions task;
  std::string protocol = "ours", grid;  // empty: the protocol's own
  int64_t max_new_tokens = 0;           // 0: the protocol's own
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
  task.seed = options.run.model.seed;
  return task;
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
    cli::print(stderr,
               "passkey: {} of {} answers have up to {} tokens with this tokenizer, but only {} "
               "are decoded: these trials count in no accuracy; give --max-new-tokens {}\n",
               cut, task.trials.size(), longest, max_new_tokens, longest);
}

/// Of any part of the run.
int64_t most_prompts(const eval::PasskeyOptions& task) {
  const int64_t trials = (task.trials + task.parts - 1) / task.parts;
  return std::ssize(task.lengths_tokens) * task.depths * trials;
}

PromptWork work_of(const eval::PasskeyTask& task, const eval::PasskeyOptions& options) {
  return {.schema = "stuffed.passkey",
          .tree = task.tree,
          .tokens_to_feed = task.tokens_to_feed(options.max_new_tokens),
          .answers_cut = task.answers_cut(options.max_new_tokens),
          .longest_prompt = *std::ranges::max_element(options.lengths_tokens),
          .longest_stream = longest_stream(task, options),
          .most_prompts = most_prompts(options)};
}

/// How the journal that is resumed has placed its needles: one that holds records and does not say
/// was made before this was recorded.
eval::PasskeyPlacement placement_of(const Options& options) {
  std::error_code ignored;
  if (options.run.overwrite || !std::filesystem::is_regular_file(options.run.output, ignored))
    return eval::PasskeyPlacement::Nearest;
  int64_t records = 0;
  const io::JournalEnd end =
      io::read_journal(options.run.output, [&](const io::json&, io::LinePlace) { ++records; });
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
                        {"max_new_tokens", task.max_new_tokens}};
  described.update(describe_prompts(options.run));
  if (task.parts > 1)
    described["part"] = fmt::format("{}/{}", task.part, task.parts);
  if (task.placement == eval::PasskeyPlacement::Nearest)
    described["placement"] = "nearest";
  return described;
}

void run(Options options, Context& context) {
  eval::PasskeyOptions task_options = task_of(options);
  const ModelOptions& given = options.run.model;
  if (options.run.dry_run) {
    const eval::PasskeyTask task = eval::make_passkey(*open_tokenizer(given), task_options);
    warn_of_cut_answers(task, task_options.max_new_tokens);
    return dry_run(options.run, work_of(task, task_options), context);
  }
  check_given(options.run, "passkey");
  guard_inputs(given).writes("-o", options.run.output);
  const auto tokenizer = open_tokenizer(given);
  const auto model = context.models.open(given, tokenizer.get());
  check_vocabulary(*tokenizer, *model);
  check_stream_length(given, *std::ranges::max_element(task_options.lengths_tokens));
  const auto rule = open_rule(given, *model);
  task_options.placement = placement_of(options);
  const eval::PasskeyTask task = eval::make_passkey(*tokenizer, task_options);
  warn_of_cut_answers(task, task_options.max_new_tokens);
  const eval::TreeLimits limits =
      settle(options.run, *model, *rule, work_of(task, task_options), context);

  io::json config = describe(given, *model);
  config["tokenizer"] = {{"kind", tokenizer->kind()}, {"sha256", tokenizer->hash()}};
  config.update(describe_task(options, task_options));
  const io::Journal journal =
      ask_and_finish(options.run,
                     {.schema = "stuffed.passkey",
                      .version = 1,
                      .config = config,
                      .provenance = provenance_of(context.command_line, given, *model),
                      .check_record =
                          [&](const io::json& record) {
                            eval::check_passkey_record(record, task_options.depths);
                          }},
                     [&](io::Journal& into, eval::Checkpoint& checkpoint, const auto& on_progress) {
                       return eval::run_passkey(*model, *rule, *tokenizer, task, task_options,
                                                limits, into, checkpoint, on_progress);
                     });
  cli::print(options.run.output == "-" ? stderr : stdout, "{}",
             eval::heat_map(task_options.lengths_tokens, task_options.depths, journal));
}

void add_task_options(CLI::App& app, Options& options) {
  const char* const group = "Passkey";
  eval::PasskeyOptions& task = options.task;
  add_sizes(app, "--lengths", task.lengths_tokens, "Prompt lengths, such as 1K..128K:1K")
      ->required()
      ->group(group);
  add_count(app, "--depths", task.depths, "Needle positions per length")->group(group);
  add_count(app, "--trials", task.trials, "Samples per length and needle position")->group(group);
  add_part(app, task.part, task.parts, "At each length and depth, run only trials")->group(group);
  add_choice(app, "--protocol", options.protocol, {"ours", "paper-code", "paper-text"},
             "Prompt and rules: ours reserves room for the answer; paper-code follows the "
             "published code (5 new tokens); paper-text uses the prompt printed in the paper")
      ->group(group);
  app.add_option("--grid", options.grid,
                 "shared: the lengths share needles, so that one stream serves many prompts; "
                 "per-length: every sample has its own needle (default: shared for ours, "
                 "per-length for paper-code and paper-text)")
      ->check(CLI::IsMember({"shared", "per-length"}).description(""))
      ->type_name("shared|per-length")
      ->group(group);
  app.add_flag("--use-bos", task.use_bos, "Prepend the text <|endoftext|> to the prompt")
      ->group(group);
  app.add_flag("--add-prefix", task.add_prefix, "Prepend 1200 sentences of filler to the prompt")
      ->group(group);
  add_count(app, "--digits", task.digits, "Digits in the passkey")->group(group);
  add_count(app, "--max-new-tokens", options.max_new_tokens,
            "Tokens decoded greedily (default: 8; 5 for paper-code)")
      ->group(group);
  add_train_len(app, options.run, group);
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
  add_model_options(*app, options->run.model, false);
  add_task_options(*app, *options);
  add_prompt_options(*app, options->run);
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
