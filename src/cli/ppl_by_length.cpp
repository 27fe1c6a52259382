// `stuffed ppl-by-length`: options, and what is shown while it runs and at the end.
#include "stuffed/eval/ppl_by_length.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/cli/document_evaluation.h"
#include "src/cli/ppl_report.h"
#include "src/cli/progress_line.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/eval/state_bytes.h"
#include "stuffed/eval/what_fits.h"
#include "stuffed/recurrence/window.h"

namespace stuffed::cli {

namespace {

struct Options : EvaluationOptions {
  int64_t bucket = 1024, batch_size = 1, train_len = 0;
  std::string per_token;
};

/// Whether a journal is there that was begun before there was --batch-size: its documents were
/// measured one at a time, and its config does not say so.
bool is_from_before_batches(const std::string& output) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(output, ignored))
    return false;
  const io::JournalEnd end = io::read_journal(output, [](const io::json&, io::LinePlace) {});
  return !end.empty && end.header.schema == eval::kPplByLengthSchema &&
         !end.header.config.contains("batch_size");
}

/// Tokens that a CPU is fed at a time; more at once are no faster.
constexpr int64_t kCpuTokens = 8192;
constexpr int64_t kMostOnCpu = 64, kMostOnGpu = 4096;

/// --batch-size auto as a number.
int64_t resolve_batch_size(const Options& options,
                           const Evaluation& it,
                           const eval::Feeding& feeding) {
  if (!options.overwrite)
    if (const auto recorded = recorded_batch_size(options.output, eval::kPplByLengthSchema))
      return *recorded;
  const bool on_cpu = !it.model->device().is_cuda();
  const SideBySide found = documents_side_by_side(options.data, it.tokenizer, *it.model,
                                                  on_cpu ? kMostOnCpu : kMostOnGpu);
  eval::Feeding fed = feeding;
  if (found.targets > 0)
    fed.segment_tokens = std::min(fed.segment_tokens, found.targets);
  const int64_t filled = std::max<int64_t>(1, kCpuTokens / fed.segment_tokens);
  return eval::batch_that_fits(*it.model, *it.rule, fed,
                               on_cpu ? std::min(found.documents, filled) : found.documents);
}

void run(Options options, Context& context) {
  check_outputs(options, "--per-token", options.per_token);
  check(options.train_len == 0 || options.bucket <= options.train_len / 4, Error::Kind::Usage,
        "--bucket {} is larger than a quarter of --train-len {}; the baseline of the collapse "
        "needs at least four buckets, so give a smaller --bucket",
        options.bucket, options.train_len);
  Evaluation it = open_evaluation(options, context);
  const int64_t window = window_tokens(options.model.mitigations);
  const int64_t length = options.data.source.length;
  context.feeding = {
      .rows = options.batch_size,
      .segment_tokens = segment_of(options),
      .state_bytes = eval::state_bytes(*it.model, *it.rule, window, length > 0 ? length : window)};
  if (options.batch_size == 0)
    options.batch_size = context.feeding->rows = resolve_batch_size(options, it, *context.feeding);
  it.config["bucket_tokens"] = options.bucket;
  if (options.overwrite || options.batch_size != 1 || !is_from_before_batches(options.output))
    it.config["batch_size"] = options.batch_size;
  it.config["train_len_tokens"] = size_or_null(options.train_len);
  it.config["per_token"] = !options.per_token.empty();
  if (!options.per_token.empty())
    it.provenance["per_token"] = name_in_journal(options.per_token, options.output);
  const eval::PplByLengthOptions how{
      .segment = options.model.segment,
      .bucket = options.bucket,
      .batch = options.batch_size,
      .train_len = options.train_len > 0 ? std::optional(options.train_len) : std::nullopt,
      .per_token = options.per_token,
      .run = it.every_record};
  it.check_record = [&options](const io::json& record) {
    eval::check_ppl_record(record, options.bucket);
    if (record.at("key") == "summary")
      ppl_table(record);  // what is shown must be there
  };
  io::Journal journal = open_journal(options, context, it,
                                     {.schema = eval::kPplByLengthSchema,
                                      .version = eval::kPplByLengthVersion,
                                      .sidecar = options.per_token});
  eval::Checkpoint checkpoint(journal, options.save_every);
  ProgressLine line;
  const io::json summary = eval::run_ppl_by_length(
      *it.model, *it.rule, it.source, it.tokenizer.get(), how, journal, checkpoint,
      [&](const eval::Progress& progress) { line.show(progress); });
  line.end();
  finish(options, summary, ppl_table(summary), "the loss is not finite somewhere");
}

}  // namespace

void add_ppl_by_length(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "ppl-by-length", "Loss and perplexity by position in long streams",
      "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --train-len 8K -o war.jsonl\n"
      "  stuffed ppl-by-length --model DIR --jsonl books.jsonl --field text --length 64K "
      "--skip-short -o books.jsonl\n"
      "  stuffed ppl-by-length --model DIR --prompt newlines --length 256K --per-token "
      "nll.safetensors -o newlines.jsonl\n"
      "\nLosses are in nats. Bucket b covers positions b*bucket to (b+1)*bucket-1; position j "
      "scores token j+1. If the run\n"
      "is killed, run the same command again: it resumes, and ends with the same records.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_size(*app, "--bucket", options->bucket, "Positions averaged per bucket")->group("Evaluation");
  add_batch_size(*app, options->batch_size,
                 "Documents of equal length per batch (one short document alone leaves a GPU "
                 "mostly idle); no record depends on the other documents of its batch. auto: the "
                 "most that fit in memory, found once and recorded, so that the same command "
                 "resumes with it; on a CPU enough for 8K tokens, at most 64")
      ->group("Evaluation");
  add_size(*app, "--train-len", options->train_len,
           "Training length of the model; the onset of collapse is sought beyond it")
      ->group("Evaluation");
  add_output_option(*app, *options);
  app->add_option("--per-token", options->per_token,
                  "Write the loss of every token: nll [documents, N] f32, in nats; column j scores "
                  "token j+1")
      ->type_name("OUT.safetensors")
      ->group("Output");
  add_rerun_options(*app, *options, "a loss");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
