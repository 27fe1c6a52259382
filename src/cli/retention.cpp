// `stuffed retention`: options, wiring, and what is shown while it runs and at the end.
#include "stuffed/eval/retention.h"

#include <memory>

#include "src/cli/app.h"
#include "src/cli/data_options.h"
#include "src/cli/retention_report.h"
#include "stuffed/core/error.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  DataOptions data;
  bool overwrite = false, fail_nonfinite = false;
  int64_t points = 32, half_life_starts = 15, train_len = 0;
  std::vector<int64_t> read_tokens, suffixes;
  std::string output, arrays;
};

/// --arrays, or the results' name with .safetensors; none if the results are no file.
fs::path arrays_path(const Options& options) {
  const fs::path output(options.output);
  if (!options.arrays.empty())
    return options.arrays;
  std::error_code ignored;
  const bool no_file =
      output == "-" || (fs::exists(output, ignored) && !fs::is_regular_file(output, ignored));
  if (no_file)
    return {};
  const fs::path beside = fs::path(output).replace_extension(".safetensors");
  check(beside != output, Error::Kind::Usage,
        "-o {}: the arrays would take this name; end it in .jsonl, or give --arrays",
        options.output);
  return beside;
}

/// As the journal names it: relative to its own folder, so that both can be moved together.
io::json arrays_name(const Options& options) {
  const fs::path path = arrays_path(options);
  if (path.empty())
    return {};
  const fs::path folder = options.output == "-" ? "." : fs::path(options.output).parent_path();
  return fs::absolute(path).lexically_proximate(fs::absolute(folder / ".")).generic_string();
}

io::json describe_task(const Options& options, const io::TokenSource& source) {
  return {{"data", source.identity()},
          {"at_tokens", options.read_tokens},
          {"grid_tokens", options.suffixes},
          {"points", options.suffixes.empty() ? io::json(options.points) : io::json()},
          {"half_life_starts", options.half_life_starts},
          {"train_len_tokens", options.train_len > 0 ? io::json(options.train_len) : io::json()},
          {"arrays", arrays_name(options)}};
}

void run(const Options& options, Context& context) {
  const auto tokenizer = tokenizer_for(options.data, options.model);
  const auto model = context.models.open(options.model);
  eval::DecayIntervals decays;
  const auto rule = open_rule(options.model, *model, &decays);
  check_stream_length(options.model, options.data.source.length);
  io::TokenSource source = open_source(options.data, tokenizer, *model);

  io::json config = describe(options.model, *model);
  config.update(describe_task(options, source));
  const eval::RetentionOptions how{.segment = options.model.segment,
                                   .read_tokens = options.read_tokens,
                                   .suffixes = options.suffixes,
                                   .points = options.points,
                                   .half_life_starts = options.half_life_starts,
                                   .arrays = arrays_path(options),
                                   .run = {{"impl", impl_that_runs(options.model, *model)},
                                           {"segment_tokens", options.model.segment},
                                           {"dtype", config["dtype"]},
                                           {"state_dtype", config["state_dtype"]}}};
  io::Results results =
      io::Results::open(options.output,
                        {.schema = eval::kRetentionSchema,
                         .version = eval::kRetentionVersion,
                         .config = config,
                         .provenance = io::provenance(context.command_line, model->device())},
                        options.overwrite);
  RetentionProgressLine line;
  const io::json summary =
      eval::run_retention(*model, *rule, decays, source, how, results,
                          [&](const eval::RetentionProgress& progress) { line.show(progress); });
  line.end();
  fmt::print(options.output == "-" ? stderr : stdout, "{}", retention_table(summary));
  check(!options.fail_nonfinite || summary.at("finite") == true, Error::Kind::NonFinite,
        "{}: a prediction or a decay is not finite (--fail-nonfinite)", options.output);
}

void add_task_options(CLI::App& app, Options& options) {
  const char* const group = "Retention";
  add_sizes(app, "--at", options.read_tokens,
            "Measure after so many tokens; default: after all of a document")
      ->group(group);
  add_size(app, "--points", options.points,
           "Suffix lengths n per --at, log-spaced from 1 to all tokens read")
      ->group(group);
  add_sizes(app, "--grid", options.suffixes, "Suffix lengths n, instead of --points")->group(group);
  add_size(app, "--half-life-starts", options.half_life_starts,
           "Positions half-lives are measured from, evenly over the first half")
      ->group(group);
  add_size(app, "--train-len", options.train_len,
           "Training length of the model: recorded, and drawn in figures")
      ->group(group);
}

}  // namespace

void add_retention(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "retention",
      "How long tokens last: surviving weights and half-lives of the decays, and how much old text "
      "matters to the prediction (results: JSON Lines; resumes when run again)",
      "  stuffed retention --model DIR --text war.txt --length 64K --train-len 8K -o war.jsonl\n"
      "  stuffed retention --model DIR --jsonl books.jsonl --length 64K --skip-short --documents "
      "16 "
      "-o books.jsonl\n"
      "  stuffed retention --model DIR --prompt newlines --length 64K --at 8K,16K,64K --points 24 "
      "-o newlines.jsonl\n"
      "\n"
      "Surviving weight of token t after T tokens, per head: exp of the sum of its log decays over "
      "tokens t+1..T-1, summed\n"
      "in f64; where the decay is a vector (RWKV, HGRN-2, Mamba-1) the arithmetic mean over the "
      "key channels; least and most\n"
      "are in the arrays, too.\n"
      "Half-life of a head: tokens until that weight, begun anew at a starting position, is below "
      "1/2; the median over\n"
      "--half-life-starts positions, each followed for as long as the last one can be (half the "
      "stream). A median that does\n"
      "not end by then is censored: \">= N\" here, null in the results.\n"
      "Decays are the model's own, before any --mitigation. RWKV-7's transition is not diagonal "
      "(its erase term): its\n"
      "weights and half-lives are those of the diagonal part alone, and labelled so.\n"
      "EffRem of n after T tokens (arXiv:2507.02782): total variation, 0 to 1, between the "
      "predictions from all T tokens and\n"
      "from the last n alone, read from the empty state. 0: what came before them does not matter. "
      "Any family, mitigations\n"
      "included. All suffixes are rows of one pass; with --points they cost a few times the "
      "stream.\n"
      "Arrays, f32: surviving_weight.read=T, surviving_weight/least.read=T, "
      "surviving_weight/most.read=T [documents, layers,\n"
      "heads, suffixes]; half_life_tokens [documents, layers, heads] and half_life_tokens/median "
      "[layers, heads], NaN: censored.\n"
      "They wait in OUT.safetensors.document-<i>.partial: killed at any moment, the same command "
      "goes on and ends with the same\n"
      "records and arrays.\n");
  auto options = std::make_shared<Options>();
  add_model_options(*app, options->model);
  add_data_options(*app, options->data);
  add_task_options(*app, *options);
  app->add_option("-o,--output", options->output,
                  "Results, JSON Lines; - is standard output, which cannot be resumed")
      ->required()
      ->type_name("OUT.jsonl")
      ->group("Output");
  app->add_option("--arrays", options->arrays,
                  "Weights and half-lives of every head; default: the results' name with "
                  ".safetensors, none for -")
      ->type_name("OUT.safetensors")
      ->group("Output");
  app->add_flag("--overwrite", options->overwrite, "Start anew instead of resuming")
      ->group("Output");
  app->add_flag("--fail-nonfinite", options->fail_nonfinite,
                "Exit code 6 if a prediction or a decay is not finite")
      ->group("Output");
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = true});
}

}  // namespace stuffed::cli
