// `stuffed retrieval`: options, what a run costs, and the heat map at the end.
#include "stuffed/eval/retrieval.h"

#include <algorithm>
#include <memory>

#include "src/cli/print.h"
#include "src/cli/prompt_run.h"
#include "src/cli/retrieval_options.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/eval/check_records.h"

namespace stuffed::cli {

namespace {

struct Options {
  PromptOptions run;
  RetrievalArguments task;
};

/// Tokens decoded after each prompt.
int64_t new_tokens(const eval::RetrievalOptions& options) {
  return eval::is_recall(options.kind) ? 0 : options.max_new_tokens;
}

PromptWork work_of(const eval::RetrievalTask& task, const eval::RetrievalOptions& options) {
  PromptWork work{.schema = std::string(eval::kRetrievalSchema),
                  .tree = task.tree,
                  .tokens_to_feed = task.tokens_to_feed(new_tokens(options)),
                  .answers_cut = task.answers_cut(),
                  .most_prompts = std::ssize(task.lengths_tokens) * options.depths *
                                  ((options.trials + options.parts - 1) / options.parts)};
  for (const auto& [length, samples] : task.samples)
    work.most_prompts = std::max(work.most_prompts, samples);
  for (const eval::RetrievalTrial& trial : task.trials) {
    work.longest_prompt = std::max(work.longest_prompt, trial.prompt_tokens);
    work.longest_stream =
        std::max(work.longest_stream,
                 trial.prompt_tokens + std::max(new_tokens(options), std::ssize(trial.answer)));
  }
  return work;
}

/// Says what counts in no accuracy, and which prompts are longer than they are called.
void warn(const eval::RetrievalTask& task, const eval::RetrievalOptions& options) {
  if (const int64_t cut = task.answers_cut(); cut > 0)
    cli::print(stderr,
               "retrieval: {} of {} prompts ask for strings of more than {} tokens, which are "
               "decoded: they count in no accuracy; give --max-new-tokens more\n",
               cut, task.trials.size(), options.max_new_tokens);
  if (const int64_t over = task.over_length(new_tokens(options)); over > 0)
    cli::print(stderr,
               "retrieval: {} of {} prompts and their answers have more tokens with this tokenizer "
               "than the length that their samples name; they are asked whole, and prompt_tokens "
               "says how many\n",
               over, task.trials.size());
}

io::json describe_niah(const eval::RetrievalOptions& task) {
  return {{"keys", task.keys},
          {"values", task.values},
          {"needles", task.kind == eval::RetrievalKind::NiahSingle ? 1 : task.needles},
          {"text_sha256", task.text.empty() ? io::json() : io::json(sha256_file(task.text))}};
}

io::json describe_recall(const eval::RetrievalOptions& task) {
  return {{"pairs", task.recall.pairs},
          {"queries", task.recall.queries},
          {"updates", task.recall.updates},
          {"gap_tokens", task.recall.gap},
          {"vocabulary", task.recall.vocabulary}};
}

io::json describe_jsonl(const eval::RetrievalOptions& task, const eval::RetrievalTask& made) {
  io::json hashes = io::json::array(), samples = io::json::array();
  for (const auto& path : task.jsonl)
    hashes.push_back(sha256_file(path));
  for (const int64_t length : made.lengths_tokens)
    samples.push_back(made.samples.at(length));
  return {{"format", task.format}, {"jsonl_sha256", hashes}, {"samples", samples}};
}

io::json describe_task(const Options& options,
                       const eval::RetrievalOptions& task,
                       const eval::RetrievalTask& made) {
  io::json described = {{"task", options.task.task},
                        {"lengths_tokens", made.lengths_tokens},
                        {"depths", task.depths},
                        {"trials", task.trials},
                        {"grid", task.grid == eval::PasskeyGrid::Shared ? "shared" : "per-length"},
                        {"max_new_tokens", new_tokens(task)}};
  described.update(describe_prompts(options.run));
  described.update(task.kind == eval::RetrievalKind::Jsonl ? describe_jsonl(task, made)
                   : eval::is_recall(task.kind)            ? describe_recall(task)
                                                           : describe_niah(task));
  if (task.parts > 1)
    described["part"] = fmt::format("{}/{}", task.part, task.parts);
  return described;
}

/// Null where none is needed.
std::shared_ptr<const io::Tokenizer> tokenizer_of(const Options& options,
                                                  const eval::RetrievalOptions& task) {
  return eval::is_recall(task.kind) ? nullptr : open_tokenizer(options.run.model);
}

/// The ids of the prompts are the model's.
void check_ids(const io::Tokenizer* tokenizer,
               const eval::RetrievalOptions& task,
               const RecurrentLM& model) {
  if (tokenizer)
    return check_vocabulary(*tokenizer, model);
  check(task.recall.vocabulary <= model.head().vocab, Error::Kind::Usage,
        "--vocabulary {}: the model knows {} tokens; give at most as many", task.recall.vocabulary,
        model.head().vocab);
}

void guard(const Options& options, const eval::RetrievalOptions& task) {
  io::OutputGuard guard = guard_inputs(options.run.model);
  if (!task.text.empty())
    guard.reads("--text", task.text);
  for (const auto& path : task.jsonl)
    guard.reads("--jsonl", path);
  guard.writes("-o", options.run.output);
}

void run(Options options, Context& context) {
  const eval::RetrievalOptions task_options = task_of(options.task, options.run.model.seed);
  const ModelOptions& given = options.run.model;
  if (options.run.dry_run) {
    const eval::RetrievalTask task =
        make_retrieval(tokenizer_of(options, task_options).get(), task_options);
    warn(task, task_options);
    return dry_run(options.run, work_of(task, task_options), context,
                   {{"tokens_asked", task.tokens_asked(new_tokens(task_options))},
                    {"over_length", task.over_length(new_tokens(task_options))}});
  }
  check_given(options.run, "retrieval");
  guard(options, task_options);
  const auto tokenizer = tokenizer_of(options, task_options);
  const auto model = context.models.open(given, tokenizer.get());
  check_ids(tokenizer.get(), task_options, *model);
  const auto rule = open_rule(given, *model);
  const eval::RetrievalTask task = make_retrieval(tokenizer.get(), task_options);
  const PromptWork work = work_of(task, task_options);
  check_stream_length(given, work.longest_stream);
  warn(task, task_options);
  const int64_t asked = task.tokens_asked(new_tokens(task_options));
  const eval::TreeLimits limits = settle(options.run, *model, *rule, work, context);

  io::json config = describe(given, *model);
  if (tokenizer)
    config["tokenizer"] = {{"kind", tokenizer->kind()}, {"sha256", tokenizer->hash()}};
  config.update(describe_task(options, task_options, task));
  const io::Journal journal = ask_and_finish(
      options.run,
      {.schema = std::string(eval::kRetrievalSchema),
       .version = 1,
       .config = config,
       .provenance = provenance_of(context.command_line, given, *model),
       .check_record =
           [&](const io::json& record) {
             eval::check_retrieval_record(record, task_options.depths);
           }},
      [&](io::Journal& into, eval::Checkpoint& checkpoint, const auto& on_progress) {
        return eval::run_retrieval(*model, *rule, tokenizer.get(), task, task_options, limits, into,
                                   checkpoint, on_progress);
      },
      {{"tokens_asked", asked}});
  std::FILE* const out = options.run.output == "-" ? stderr : stdout;
  cli::print(out, "{}", eval::heat_map(task.lengths_tokens, task_options.depths, journal));
  cli::print(out, "{} tokens to feed, {} if each prompt were fed alone\n", work.tokens_to_feed,
             asked);
}

}  // namespace

void add_retrieval(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "retrieval",
      "Retrieval tasks of RULER, associative recall, or questions of a file, at every length and "
      "depth; text that prompts share is fed once",
      "  stuffed retrieval --task niah-multikey --model DIR --lengths 1K..64K:1K -o "
      "multikey.jsonl\n"
      "  stuffed retrieval --task niah-single --text essays.txt --model DIR --lengths 4K,8K,16K -o "
      "essays.jsonl\n"
      "  stuffed retrieval --task mqar --model DIR --pairs 16 --vocabulary 256 --lengths 64..1K:64 "
      "-o mqar.jsonl\n"
      "  stuffed retrieval --task jsonl --jsonl validation.jsonl --format ruler --model DIR -o "
      "ruler.jsonl\n"
      "\nA trial's score is the share of the expected strings that occur in the decoded tokens, "
      "whatever their case; of mqar\n"
      "the share of the values that are the likeliest next token. If the run is killed, run the "
      "same command again: it resumes.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->run.model, false);
  add_retrieval_arguments(*app, options->task);
  add_train_len(*app, options->run, "Retrieval");
  add_prompt_options(*app, options->run);
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
