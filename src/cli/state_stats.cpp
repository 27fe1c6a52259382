// `stuffed state-stats`: options, wiring, and what is shown at the end.
#include "stuffed/eval/state_stats.h"

#include <memory>

#include "src/cli/app.h"
#include "src/cli/data_options.h"
#include "src/cli/ppl_report.h"
#include "src/cli/state_report.h"
#include "stuffed/core/error.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  DataOptions data;
  eval::StateStatsOptions task;
  int64_t train_len = 0;
  bool no_rank = false, overwrite = false, fail_nonfinite = false;
  std::string output, arrays;
};

/// Where the arrays go: --arrays, or OUT.safetensors beside OUT.jsonl.
fs::path arrays_path(const Options& options) {
  if (!options.arrays.empty())
    return options.arrays;
  check(options.output != "-", Error::Kind::Usage, "-o -: name the arrays' file by --arrays");
  const fs::path beside = fs::path(options.output).replace_extension(".safetensors");
  check(beside != options.output, Error::Kind::Usage,
        "-o {}: the arrays would take this name; end it in .jsonl, or give --arrays",
        options.output);
  return beside;
}

/// As the journal names it: relative to its own folder, so that both can be moved together.
std::string arrays_name(const Options& options) {
  const fs::path path = arrays_path(options);
  const fs::path folder = options.output == "-" ? "." : fs::path(options.output).parent_path();
  return fs::absolute(path).lexically_proximate(fs::absolute(folder / ".")).generic_string();
}

io::json config_of(const Options& options,
                   const eval::StateStatsOptions& task,
                   const RecurrentLM& model,
                   const io::TokenSource& source) {
  const ModelConfig& shape = model.config();
  const auto chosen = [](const std::vector<int64_t>& indices, int64_t count, const char* flag) {
    const auto resolved = eval::resolve_indices(indices, count, flag);
    return static_cast<int64_t>(resolved.size()) == count ? io::json("all") : io::json(resolved);
  };
  io::json config = describe(options.model, model);
  config["data"] = source.identity();
  config["stride_tokens"] = task.stride;
  config["train_len_tokens"] = task.train_len ? io::json(*task.train_len) : io::json();
  config["layers"] = chosen(task.layers, shape.layers, "--layers");
  config["heads"] = chosen(task.heads, shape.heads, "--heads");
  config["rank"] = task.rank;
  config["histogram_at"] = task.histogram_at;
  config["histogram_bins"] = task.histogram_bins;
  config["top"] = task.top;
  config["arrays"] = arrays_name(options);
  return config;
}

void run(const Options& options, Context& context) {
  eval::StateStatsOptions task = options.task;
  task.arrays = arrays_path(options);
  const auto tokenizer = tokenizer_for(options.data, options.model);
  const auto model = context.models.open(options.model);
  check_stream_length(options.model, options.data.source.length);
  io::TokenSource source = open_source(options.data, tokenizer, *model);

  task.segment = options.model.segment;
  task.rank = !options.no_rank;
  if (options.train_len > 0)
    task.train_len = options.train_len;
  const io::json config = config_of(options, task, *model, source);
  eval::check_state_stats(task, model->config(), "--length", options.data.source.length,
                          options.data.source.documents);
  task.metadata = {{"schema", eval::kStateStatsSchema},
                   {"version", std::to_string(eval::kStateStatsVersion)},
                   {"model_sha256", model->config().hash},
                   {"family", model->config().family},
                   {"stride_tokens", std::to_string(task.stride)},
                   {"names", eval::kStateStatsArrays}};
  task.run = {{"impl", impl_that_runs(options.model, *model)},
              {"segment_tokens", task.segment},
              {"dtype", config["dtype"]},
              {"state_dtype", config["state_dtype"]}};
  io::Results results =
      io::Results::open(options.output,
                        {.schema = eval::kStateStatsSchema,
                         .version = eval::kStateStatsVersion,
                         .config = config,
                         .provenance = io::provenance(context.command_line, model->device())},
                        options.overwrite);
  PplProgressLine line;
  const io::json summary = eval::run_state_stats(
      *model, [&](Observer& observer) { return open_rule(options.model, *model, &observer); },
      source, task, results, [&](const eval::PplProgress& progress) { line.show(progress); });
  line.end();
  std::FILE* const out = options.output == "-" ? stderr : stdout;
  fmt::print(out, "{}", state_table(summary));
  fmt::print(out, "arrays: {}\n", task.arrays.string());
  check(!options.fail_nonfinite || summary.at("finite") == true, Error::Kind::NonFinite,
        "{}: a loss or a state is not finite somewhere (--fail-nonfinite)", options.output);
}

void add_statistics_options(CLI::App& app, Options& options) {
  const char* const group = "Statistics";
  eval::StateStatsOptions& task = options.task;
  add_size(app, "--stride", task.stride,
           "The state is sampled after every multiple of it, whatever --segment; also what inputs "
           "and losses are averaged over")
      ->group(group);
  add_size(app, "--train-len", options.train_len,
           "Training length of the model: finds the heads that explode past it, and writes the "
           "limits clamp_norm reads")
      ->group(group);
  add_sizes(app, "--layers", task.layers, "Such as 0,3 or 0..47:1; default: all", 0)->group(group);
  add_sizes(app, "--heads", task.heads, "Likewise, in each layer (Mamba-1: channels)", 0)
      ->group(group);
  app.add_flag("--no-rank", options.no_rank,
               "Leave out the effective rank, an eigenvalue problem per sample, layer and head")
      ->group(group);
  add_sizes(app, "--histogram-at", task.histogram_at,
            "Positions, multiples of --stride: histograms of each head's state over their common "
            "range")
      ->group(group);
  add_size(app, "--histogram-bins", task.histogram_bins, "Of each histogram")->group(group);
  add_size(app, "--top", task.top, "Heads in the table of those that explode")->group(group);
}

}  // namespace

void add_state_stats(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "state-stats",
      "What the recurrent state of each layer and head is like along long streams (results: JSON "
      "Lines and arrays; resumes when run again)",
      std::string(
          "  stuffed state-stats --model DIR --prompt newlines --length 32K --stride 128 "
          "--train-len 8K --histogram-at 8K,20K -o newlines.jsonl\n"
          "  stuffed state-stats --model DIR --text war.txt --length 1M --stride 8K --layers 38 "
          "--heads 0..7:1 --no-rank -o war.jsonl\n"
          "  stuffed state-stats --model DIR --text war.txt --length 8K --train-len 8K -o "
          "limits.jsonl\n"
          "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --mitigation "
          "clamp_norm:limits=limits.safetensors -o clamped.jsonl\n\n") +
          eval::kStateStatsArrays +
          "They take 170 bytes per document, sample, layer and head: 270 MB for 1M tokens at a "
          "stride of 1K of a model of\n48 x 32 heads. Killed at any moment, the same command goes "
          "on and ends with the same records and arrays.\n");
  auto options = std::make_shared<Options>();
  options->data.source.documents = 1;
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_statistics_options(*app, *options);
  app->add_option("-o,--output", options->output,
                  "Results, JSON Lines; - is standard output, which cannot be resumed")
      ->required()
      ->type_name("OUT.jsonl")
      ->group("Output");
  app->add_option("--arrays", options->arrays, "Default: OUT.safetensors")
      ->type_name("FILE.safetensors")
      ->group("Output");
  app->add_flag("--overwrite", options->overwrite, "Start anew instead of resuming")
      ->group("Output");
  app->add_flag("--fail-nonfinite", options->fail_nonfinite,
                "Exit code 6 if a loss or a state is not finite")
      ->group("Output");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
