// `stuffed state-stats`: options, and what is shown at the end.
#include "stuffed/eval/state_stats.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "src/cli/document_evaluation.h"
#include "src/cli/dump_option.h"
#include "src/cli/print.h"
#include "src/cli/progress_line.h"
#include "src/cli/state_report.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct Options : EvaluationOptions {
  eval::StateStatsOptions task;
  int64_t train_len = 0;
  bool no_rank = false;
  std::string arrays, dump;
};

/// Where the arrays go: --arrays, or OUT.safetensors beside OUT.jsonl.
fs::path arrays_path(const Options& options) {
  if (!options.arrays.empty())
    return options.arrays;
  check(options.output != "-", Error::Kind::Usage,
        "-o -: name a file for the arrays with --arrays");
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

/// What --dump asks for; nothing without it. Layers and heads default to those recorded.
/// Errors  Usage if a position, layer or head is not there, or for several documents
std::optional<eval::DumpOptions> dump_of(const Options& options, const ModelConfig& model) {
  if (options.dump.empty())
    return std::nullopt;
  check(options.output != "-", Error::Kind::Usage,
        "-o -: --dump writes beside the results, so -o must name a file");
  check(options.data.source.documents == 1, Error::Kind::Usage,
        "--dump: takes the states of one document; give --documents 1");
  const DumpSelection chosen = parse_dump(options.dump);
  const auto of = [](const std::vector<int64_t>& own, const std::vector<int64_t>& recorded) {
    return own.empty() ? recorded : own;
  };
  eval::DumpOptions dump{
      .positions = chosen.positions,
      .layers =
          eval::resolve_indices(of(chosen.layers, options.task.layers), model.layers, "--dump"),
      .heads = eval::resolve_indices(of(chosen.heads, options.task.heads), model.heads, "--dump"),
      .file = beside(options.output, ".dump.safetensors")};
  std::ranges::sort(dump.positions);
  const auto repeated = std::ranges::unique(dump.positions);
  dump.positions.erase(repeated.begin(), repeated.end());
  const int64_t length = options.data.source.length;
  check(length == 0 || dump.positions.back() <= length, Error::Kind::Usage,
        "--dump {}: lies past the end of --length {}", dump.positions.back(), length);
  return dump;
}

/// Says how large the dump will be.
/// Errors  Usage if that is too much and --force was not given
void check_dump_size(const eval::StateDump& dump, bool force) {
  constexpr double kGB = 1e9, kMostGB = 8;
  const eval::DumpOptions& what = dump.options();
  const double size = static_cast<double>(dump.bytes()) / kGB;
  cli::print(stderr, "dump: {:.3f} GB to {} (positions x layers x heads: {} x {} x {})\n", size,
             what.file.string(), what.positions.size(), what.layers.size(), what.heads.size());
  check(force || size <= kMostGB, Error::Kind::Usage,
        "--dump: {:.1f} GB is more than {:.0f}; choose fewer positions, layers or heads, or give "
        "--force",
        size, kMostGB);
}

/// A dump replaces nothing but the dump of its own journal.
/// Errors  Usage if it is another run's; Input if it is something else; Output if it is no file
void check_dump_place(const fs::path& dump, const std::string& output) {
  io::check_place(dump, [](const io::TensorFile& file) {
    return file.has("positions") && file.has("layers") && file.has("heads") &&
           !file.has("loss.mean_nll");
  });
  std::error_code ignored;
  check(!fs::exists(dump, ignored) ||
            (fs::is_regular_file(output, ignored) && !fs::is_empty(output, ignored)),
        Error::Kind::Usage, "{}: belongs to another run than -o {}; name another, or move it away",
        dump.string(), output);
}

io::json describe_dump(const eval::DumpOptions& dump, const std::string& output) {
  return {{"positions", dump.positions},
          {"layers", dump.layers},
          {"heads", dump.heads},
          {"file", name_in_journal(dump.file, output)}};
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
  context.feeding = {.segment_tokens = std::min(segment_of(options), task.stride),
                     .state_bytes = it.model->initial_state(1).bytes()};
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
  task.run["impl"] = impl_that_runs(options.model, *it.model, std::min(task.segment, task.stride));
  std::optional<eval::StateDump> dump;
  if (std::optional<eval::DumpOptions> what = dump_of(options, model)) {
    check_outputs(options, "--dump", what->file);
    check_dump_place(what->file, options.output);
    it.config["dump"] = describe_dump(*what, options.output);
    what->metadata = {{"model_sha256", model.hash}, {"family", model.family}};
    dump.emplace(*it.model, std::move(*what));
    check_dump_size(*dump, options.model.force);
    task.dump = &*dump;
  }
  it.check_record = [](const io::json& record) {
    eval::check_state_stats_record(record);
    if (record.at("key") == "summary")
      state_table(record);  // what is shown must be there
  };
  io::Journal journal = open_journal(options, context, it,
                                     {.schema = eval::kStateStatsSchema,
                                      .version = eval::kStateStatsVersion,
                                      .sidecar = task.arrays});
  eval::Checkpoint checkpoint(journal, options.save_every);
  ProgressLine line;
  const io::json summary = eval::run_state_stats(
      *it.model, [&](Observer& observer) { return open_rule(options.model, *it.model, &observer); },
      it.source, task, journal, checkpoint,
      [&](const eval::Progress& progress) { line.show(progress); });
  line.end();
  finish(options, summary, state_table(summary) + fmt::format("arrays: {}\n", task.arrays.string()),
         "a loss or a state is not finite somewhere");
}

void add_statistics_options(CLI::App& app, Options& options) {
  const char* const group = "Statistics";
  eval::StateStatsOptions& task = options.task;
  add_size(app, "--stride", task.stride,
           "Tokens between samples of the state, independent of --segment; inputs and losses are "
           "averaged over the same tokens")
      ->group(group);
  add_size(app, "--train-len", options.train_len,
           "Training length of the model: find the heads whose state explodes past it, and write "
           "the limits that clamp_norm reads")
      ->group(group);
  add_sizes(app, "--layers", task.layers, "Layers to record, such as 0,3 or 0..47:1 (default: all)",
            0)
      ->type_name("N,...")
      ->group(group);
  add_sizes(app, "--heads", task.heads,
            "Heads to record in each layer (Mamba-1: channels) (default: all)", 0)
      ->type_name("N,...")
      ->group(group);
  app.add_flag(
         "--no-rank", options.no_rank,
         "Skip the effective rank, which costs an eigenvalue problem per sample, layer and head")
      ->group(group);
  add_sizes(app, "--histogram-at", task.histogram_at,
            "Positions (multiples of --stride) at which to take a histogram of each head's state; "
            "the positions share one range")
      ->group(group);
  add_count(app, "--histogram-bins", task.histogram_bins, "Bins of each histogram")
      ->needs("--histogram-at")
      ->group(group);
  app.add_option("--dump", options.dump,
                 "Write the whole states and gates at these positions, of these layers and heads "
                 "(default: those recorded), to OUT.dump.safetensors; for example 8K,20K:38:0..7:1")
      ->type_name("POSITIONS[:LAYERS[:HEADS]]")
      ->group(group);
  add_count(app, "--top", task.top, "Number of rows in the table of exploding heads")->group(group);
}

}  // namespace

void add_state_stats(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "state-stats",
      "Statistics of the recurrent state per layer and head along long streams",
      std::string(
          "  stuffed state-stats --model DIR --prompt newlines --length 32K --stride 128 "
          "--train-len 8K --histogram-at 8K,20K -o newlines.jsonl\n"
          "  stuffed state-stats --model DIR --text war.txt --length 1M --stride 8K --layers 38 "
          "--heads 0..7:1 --no-rank -o war.jsonl\n"
          "  stuffed state-stats --model DIR --prompt newlines --length 32K --dump 8K,20K:38:2 -o "
          "newlines.jsonl\n"
          "  stuffed state-stats --model DIR --text war.txt --length 8K --train-len 8K -o "
          "limits.jsonl\n"
          "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --mitigation "
          "clamp_norm:limits=limits.safetensors -o clamped.jsonl\n\n") +
          eval::kStateStatsArrays + eval::kStateDumpTensors +
          "The arrays take 180 bytes per document, sample, layer and head: 280 MB for 1M tokens at "
          "a stride of 1K of a model of\n"
          "48 x 32 heads. If the run is killed, run the same command again: it resumes, and ends "
          "with the same records and arrays.\n");
  auto options = std::make_shared<Options>();
  options->data.source.documents = 1;
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_statistics_options(*app, *options);
  add_output_option(*app, *options);
  app->add_option("--arrays", options->arrays,
                  "File for the arrays (default: OUT.safetensors beside OUT.jsonl)")
      ->type_name("FILE.safetensors")
      ->group("Output");
  add_rerun_options(*app, *options, "a loss or a state");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
