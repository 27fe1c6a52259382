// `stuffed ppl-by-length`: options, wiring, and what is shown while it runs and at the end.
#include "stuffed/eval/ppl_by_length.h"

#include <memory>

#include "src/cli/app.h"
#include "src/cli/data_options.h"
#include "src/cli/ppl_report.h"
#include "stuffed/core/error.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace {

struct Options {
  ModelOptions model;
  DataOptions data;
  int64_t bucket = 1024, batch_size = 1, train_len = 0;
  bool overwrite = false, fail_nonfinite = false;
  std::string output, per_token;
};

void run(const Options& options, Context& context) {
  const auto tokenizer = tokenizer_for(options.data, options.model);
  const auto model = context.models.open(options.model);
  const auto rule = open_rule(options.model, *model);
  check_stream_length(options.model, options.data.source.length);
  io::TokenSource source = open_source(options.data, tokenizer, *model);

  io::json config = describe(options.model, *model);
  config["data"] = source.identity();
  config["bucket_tokens"] = options.bucket;
  config["batch_size"] = options.batch_size;
  config["train_len_tokens"] = options.train_len > 0 ? io::json(options.train_len) : io::json();
  config["per_token"] = !options.per_token.empty();
  eval::PplByLengthOptions how{
      .segment = options.model.segment,
      .bucket = options.bucket,
      .batch = options.batch_size,
      .train_len = options.train_len > 0 ? std::optional(options.train_len) : std::nullopt,
      .per_token = options.per_token,
      .run = {{"impl", impl_that_runs(options.model, *model)},
              {"segment_tokens", options.model.segment},
              {"dtype", config["dtype"]},
              {"state_dtype", config["state_dtype"]}}};
  io::Results results =
      io::Results::open(options.output,
                        {.schema = eval::kPplByLengthSchema,
                         .version = eval::kPplByLengthVersion,
                         .config = config,
                         .provenance = io::provenance(context.command_line, model->device())},
                        options.overwrite);
  PplProgressLine line;
  const io::json summary =
      eval::run_ppl_by_length(*model, *rule, source, tokenizer.get(), how, results,
                              [&](const eval::PplProgress& progress) { line.show(progress); });
  line.end();
  fmt::print(options.output == "-" ? stderr : stdout, "{}", ppl_table(summary));
  check(!options.fail_nonfinite || summary.at("finite") == true, Error::Kind::NonFinite,
        "{}: the loss is not finite somewhere (--fail-nonfinite)", options.output);
}

}  // namespace

void add_ppl_by_length(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "ppl-by-length",
      "Loss and perplexity by position in long streams (results: JSON Lines; resumes when run "
      "again)",
      "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --train-len 8K -o war.jsonl\n"
      "  stuffed ppl-by-length --model DIR --jsonl books.jsonl --field text --length 64K "
      "--skip-short -o books.jsonl\n"
      "  stuffed ppl-by-length --model DIR --prompt newlines --length 256K --per-token "
      "nll.safetensors -o newlines.jsonl\n"
      "\nLosses are in nats. Bucket b covers positions b*bucket to (b+1)*bucket-1; position j "
      "scores token j+1. Killed at\n"
      "any moment, the same command goes on and ends with the same records.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_size(*app, "--bucket", options->bucket, "Positions averaged together")->group("Evaluation");
  add_size(
      *app, "--batch-size", options->batch_size,
      "Documents of equal length fed side by side (a GPU is idle with one short one); no record "
      "depends on its neighbours")
      ->group("Evaluation");
  add_size(*app, "--train-len", options->train_len,
           "Training length of the model: the collapse onset is looked for beyond it")
      ->group("Evaluation");
  app->add_option("-o,--output", options->output,
                  "Results, JSON Lines; - is standard output, which cannot be resumed")
      ->required()
      ->type_name("OUT.jsonl")
      ->group("Output");
  app->add_option("--per-token", options->per_token, "Every loss: nll [documents, N] f32, in nats")
      ->type_name("OUT.safetensors")
      ->group("Output");
  app->add_flag("--overwrite", options->overwrite, "Start anew instead of resuming")
      ->group("Output");
  app->add_flag("--fail-nonfinite", options->fail_nonfinite, "Exit code 6 if a loss is not finite")
      ->group("Output");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
