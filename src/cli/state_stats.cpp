// `stuffed state-stats`: options, wiring, and what is shown at the end.
#include "stuffed/eval/state_stats.h"

#include <memory>

#include "src/cli/evaluation.h"
#include "src/cli/progress_line.h"
#include "src/cli/state_report.h"
#include "stuffed/core/error.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct Options : EvaluationOptions {
  eval::StateStatsOptions task;
  int64_t train_len = 0;
  bool no_rank = false;
  std::string arrays;
};

/// Where the arrays go: --arrays, or OUT.safetensors beside OUT.jsonl.
fs::path arrays_path(const Options& options) {
  if (!options.arrays.empty())
    return options.arrays;
  check(options.output != "-", Error::Kind::Usage, "-o -: name the arrays' file by --arrays");
  return arrays_beside(options.output);
}

/// What the header says of the task.
io::json describe_task(const eval::StateStatsOptions& task,
                       const ModelConfig& model,
                       const std::string& output) {
  const auto chosen = [](const std::vector<int64_t>& indices, int64_t count, const char* flag) {
    const auto resolved = eval::resolve_indices(indices, count, flag);
    return static_cast<int64_t>(resolved.size()) == count ? io::json("all") : io::json(resolved);
  };
  return {{"stride_tokens", task.stride},
          {"train_len_tokens", size_or_null(task.train_len.value_or(0))},
          {"layers", chosen(task.layers, model.layers, "--layers")},
          {"heads", chosen(task.heads, model.heads, "--heads")},
          {"rank", task.rank},
          {"histogram_at", task.histogram_at},
          {"histogram_bins", task.histogram_bins},
          {"top", task.top},
          {"arrays", name_in_journal(task.arrays, output)}};
}

void run(const Options& options, Context& context) {
  eval::StateStatsOptions task = options.task;
  task.arrays = arrays_path(options);
  check_outputs(options, "--arrays", task.arrays);
  task.segment = options.model.segment;
  task.rank = !options.no_rank;
  if (options.train_len > 0)
    task.train_len = options.train_len;
  Evaluation it = open_evaluation(options, context);
  const ModelConfig& model = it.model->config();
  it.config.update(describe_task(task, model, options.output));
  eval::check_state_stats(task, model, "--length", options.data.source.length,
                          options.data.source.documents);
  task.metadata = {{"schema", eval::kStateStatsSchema},
                   {"version", std::to_string(eval::kStateStatsVersion)},
                   {"model_sha256", model.hash},
                   {"family", model.family},
                   {"stride_tokens", std::to_string(task.stride)},
                   {"names", eval::kStateStatsArrays}};
  task.run = it.every_record;
  io::Results results = open_results(options, context, it,
                                     {.schema = eval::kStateStatsSchema,
                                      .version = eval::kStateStatsVersion,
                                      .sidecar = task.arrays});
  eval::Checkpoint checkpoint(results, options.save_every);
  ProgressLine line;
  const io::json summary = eval::run_state_stats(
      *it.model, [&](Observer& observer) { return open_rule(options.model, *it.model, &observer); },
      it.source, task, results, checkpoint,
      [&](const eval::Progress& progress) { line.show(progress); });
  line.end();
  finish(options, summary, state_table(summary) + fmt::format("arrays: {}\n", task.arrays.string()),
         "a loss or a state is not finite somewhere");
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
  add_output_option(*app, *options);
  app->add_option("--arrays", options->arrays, "Default: OUT.safetensors beside OUT.jsonl")
      ->type_name("FILE.safetensors")
      ->group("Output");
  add_rerun_options(*app, *options, "a loss or a state");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
