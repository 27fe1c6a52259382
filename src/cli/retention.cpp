// `stuffed retention`: options, and what is shown while it runs and at the end.
#include "stuffed/eval/retention.h"

#include <algorithm>
#include <memory>

#include "src/cli/document_evaluation.h"
#include "src/cli/progress_line.h"
#include "src/cli/retention_report.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/recurrence/window.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct Options : EvaluationOptions {
  int64_t points = 32, train_len = 0;
  int64_t half_life_starts = 0;  // 0: 15, or as many as the stream has
  std::vector<int64_t> read_tokens, suffixes;
  std::string arrays;
};

/// --arrays, or the file beside the results; none if the results are no file.
fs::path arrays_path(const Options& options) {
  const fs::path output(options.output);
  if (!options.arrays.empty())
    return options.arrays;
  std::error_code ignored;
  const bool no_file =
      output == "-" || (fs::exists(output, ignored) && !fs::is_regular_file(output, ignored));
  return no_file ? fs::path() : arrays_beside(options.output);
}

int64_t starts_of(const Options& options) {
  return options.half_life_starts > 0 ? options.half_life_starts : 15;
}

/// Errors  Usage if half-lives are to begin beyond a stream whose length is known already
void check_starts(const Options& options) {
  const int64_t tokens = options.read_tokens.empty()
                             ? options.data.source.length
                             : *std::ranges::max_element(options.read_tokens);
  check(tokens == 0 || options.half_life_starts <= tokens / 2, Error::Kind::Usage,
        "--half-life-starts {}: the first half of the {} tokens read has fewer positions",
        options.half_life_starts, tokens);
}

/// What the header says of the task.
io::json describe_task(const Options& options, const fs::path& arrays) {
  return {{"at_tokens", options.read_tokens},
          {"grid_tokens", options.suffixes},
          {"points", options.suffixes.empty() ? io::json(options.points) : io::json()},
          {"half_life_starts", starts_of(options)},
          {"train_len_tokens", size_or_null(options.train_len)},
          {"arrays", name_in_journal(arrays, options.output)}};
}

void run(const Options& options, Context& context) {
  check_starts(options);
  eval::DecayIntervals decays, mitigated;
  const bool mitigates = !options.model.mitigations.empty();
  const fs::path arrays = arrays_path(options);
  check_outputs(options, "--arrays", arrays);
  Evaluation it = open_evaluation(options, context, &decays, mitigates ? &mitigated : nullptr);
  const int64_t suffixes = options.suffixes.empty() ? options.points : std::ssize(options.suffixes);
  context.feeding = {.rows = suffixes + 1,
                     .segment_tokens = segment_of(options),
                     .state_bytes = it.model->initial_state(1).bytes()};
  it.config.update(describe_task(options, arrays));
  const eval::RetentionOptions how{.segment = options.model.segment,
                                   .read_tokens = options.read_tokens,
                                   .suffixes = options.suffixes,
                                   .points = options.points,
                                   .half_life_starts = starts_of(options),
                                   .fewer_starts = options.half_life_starts == 0,
                                   .arrays = arrays,
                                   .mitigated = mitigates ? &mitigated : nullptr,
                                   .window = window_tokens(options.model.mitigations),
                                   .run = it.every_record};
  it.check_record = [](const io::json& record) {
    eval::check_retention_record(record);
    if (record.at("key") == "summary")
      retention_table(record);  // what is shown must be there
  };
  io::Journal journal = open_journal(
      options, context, it,
      {.schema = eval::kRetentionSchema, .version = eval::kRetentionVersion, .sidecar = arrays});
  eval::Checkpoint checkpoint(journal, options.save_every);
  ProgressLine line("tokens (suffixes counted)");
  const io::json summary =
      eval::run_retention(*it.model, *it.rule, decays, it.source, how, journal, checkpoint,
                          [&](const eval::Progress& progress) { line.show(progress); });
  line.end();
  finish(options, summary, retention_table(summary), "a prediction or a decay is not finite");
}

void add_task_options(CLI::App& app, Options& options) {
  const char* const group = "Retention";
  add_sizes(app, "--at", options.read_tokens,
            "Positions to measure at (default: the end of each document)")
      ->group(group);
  CLI::Option* const points = add_count(
      app, "--points", options.points,
      "Number of suffix lengths n per --at position, log-spaced from 1 to all tokens read");
  points->group(group);
  add_sizes(app, "--grid", options.suffixes,
            "The suffix lengths n themselves, instead of a number of --points")
      ->excludes(points)
      ->group(group);
  add_count(app, "--half-life-starts", options.half_life_starts,
            "Number of positions from which half-lives are measured, spaced evenly over the first "
            "half of the stream (default: 15, or as many as there are)")
      ->group(group);
  add_size(app, "--train-len", options.train_len,
           "Training length of the model; recorded, and drawn in figures")
      ->group(group);
}

}  // namespace

void add_retention(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "retention",
      "How long tokens last in the state: surviving weights, half-lives, and how much old text "
      "changes the predictions",
      "  stuffed retention --model DIR --text war.txt --length 64K --train-len 8K -o war.jsonl\n"
      "  stuffed retention --model DIR --jsonl books.jsonl --length 64K --skip-short --documents "
      "16 "
      "-o books.jsonl\n"
      "  stuffed retention --model DIR --prompt newlines --length 64K --at 8K,16K,64K --points 24 "
      "-o newlines.jsonl\n"
      "\n"
      "Surviving weight of token t after T tokens, per head: exp of the sum of its log decays over "
      "tokens t+1..T-1, summed\n"
      "in f64; where the decay is a vector (RWKV, HGRN-2, Mamba-1), their arithmetic mean over the "
      "key channels; the least and the\n"
      "most are in the arrays, too.\n"
      "Half-life of a head: tokens until that weight, counted from a starting position, is below "
      "1/2; the median over\n"
      "--half-life-starts positions, each followed for as long as the last one can be (half the "
      "stream). A median that is\n"
      "not reached by then is censored: \">= N\" here, null in the results.\n"
      "Decays are the model's own, before any --mitigation; with one, the same is recorded once "
      "more "
      "as the mitigation has it\n"
      "(\"mitigated_\" before the names): its decays, the factors by which clamp_norm rescales the "
      "state, and a weight of 0 for tokens that have left\n"
      "a sliding window. RWKV-7's transition is not diagonal (its erase term): its weights and "
      "half-lives are those of the\n"
      "diagonal part alone, and labelled so.\n"
      "Alpha, the decay per token over all tokens read: its mean, and exp of the mean of its "
      "logarithm (geometric), by layer\n"
      "and head; clamp_norm's factors are no part of it.\n"
      "EffRem of n after T tokens (arXiv:2507.02782): total variation, 0 to 1, between the "
      "predictions from all T tokens and\n"
      "from the last n alone, read from the empty state. 0: what came before them does not matter. "
      "Any family, mitigations\n"
      "included. All suffixes are rows of one pass; with --points they cost a few times as much as "
      "the stream.\n"
      "Arrays, f32: surviving_weight.read=T, surviving_weight/least.read=T, "
      "surviving_weight/most.read=T [documents, layers,\n"
      "heads, suffixes]; half_life_tokens [documents, layers, heads] and half_life_tokens/median "
      "[layers, heads], NaN: censored; alpha.mean, alpha.geometric\n"
      "[documents, layers, heads], f64; with --mitigation the same again under mitigated/.\n"
      "They gather in OUT.safetensors.partial/. If the run is killed, run the same command again: "
      "it resumes, and ends\n"
      "with the same records and arrays.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_task_options(*app, *options);
  add_output_option(*app, *options);
  app->add_option("--arrays", options->arrays,
                  "File for the weights and half-lives of every head (default: OUT.safetensors "
                  "beside the results, none for -)")
      ->type_name("OUT.safetensors")
      ->group("Output");
  add_rerun_options(*app, *options, "a prediction or a decay");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
