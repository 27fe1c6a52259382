// `stuffed export`: results in the formats of other programs.
#include <memory>

#include <fmt/format.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/eval/export_paper.h"
#include "stuffed/eval/export_tables.h"

namespace stuffed::cli {

namespace {

struct ExportArguments {
  std::string format = "paper", results, output, per_token;
  bool partial = false, overwrite = false;
  int64_t drop_chunk_targets = 0;
};

void say(const std::vector<std::filesystem::path>& written,
         const std::vector<std::string>& warnings,
         const std::string& output) {
  for (const std::string& warning : warnings)
    cli::print(stderr, "export: {}\n", warning);
  cli::print(stdout, "{} written to {}\n", counted(std::ssize(written), "file"), output);
}

void run_export(const ExportArguments& options) {
  if (options.format == "paper") {
    const eval::PaperFiles files =
        eval::export_paper(options.results, options.output,
                           {.per_token = options.per_token,
                            .drop_chunk_targets = options.drop_chunk_targets,
                            .partial = options.partial,
                            .overwrite = options.overwrite});
    return say(files.written, files.warnings, options.output);
  }
  check(options.per_token.empty() && options.drop_chunk_targets == 0, Error::Kind::Usage,
        "--per-token and --drop-chunk-targets go with --format paper, not {}", options.format);
  const eval::ExportOptions how{.partial = options.partial, .overwrite = options.overwrite};
  const eval::ExportedFiles files =
      options.format == "csv" ? eval::export_csv(options.results, options.output, how)
                              : eval::export_lm_eval(options.results, options.output, how);
  say(files.written, files.warnings, options.output);
}

}  // namespace

void add_export(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "export", "Convert results to the file formats of other programs",
      "  stuffed export --format csv war.jsonl -o war-tables\n"
      "  stuffed export --format lm-eval passkey.jsonl -o leaderboard\n"
      "  stuffed export --format paper passkey.jsonl -o output/mamba2-370m\n"
      "  stuffed export --format paper newlines.jsonl -o output --drop-chunk-targets 128K\n"
      "\ncsv, of any results: records.csv, a row per record with its single values; values.csv, a "
      "row "
      "per element of an array;\n"
      "run.csv, the configuration and provenance.\n"
      "lm-eval, of ppl-by-length, passkey, retrieval and merged sweeps of them: results.json with "
      "the "
      "keys of lm-evaluation-harness, a task\n"
      "per bucket or length (passkey_4096: acc, exact_match; niah_multikey_4096: acc; "
      "ppl_by_length_4096: token_perplexity, "
      "byte_perplexity,\n"
      "bits_per_byte); of a sweep a folder per cell.\n"
      "paper: the files that the code published with arXiv:2410.07145 writes.\n"
      "passkey: args.json and passkey/preds_<tokens>.jsonl; relative_postion (sic) is where the "
      "needle is among the blocks;\n"
      "of a --protocol paper-code run on its own grid it is the depth asked for, as that code "
      "writes it.\n"
      "ppl-by-length --per-token: result_per_token/<model>/<text>/args.json and per_token_loss.pt, "
      "[documents, T-1] f32 in nats,\n"
      "which torch.load(weights_only=True) reads; column j scores token j+1.\n"
      "An unfinished journal is refused without --partial (with --per-token, always), and a folder "
      "that is not empty\n"
      "without --overwrite.\n");
  auto options = std::make_shared<ExportArguments>();
  app->add_option("results", options->results,
                  "Journal; --format paper takes that of a passkey run, or of a ppl-by-length run "
                  "with --per-token")
      ->required()
      ->type_name("RESULTS.jsonl");
  add_choice(*app, "--format", options->format, {"csv", "lm-eval", "paper"},
             "File format to write");
  app->add_option("-o,--output", options->output, "Folder to write to")
      ->required()
      ->type_name("DIR");
  app->add_flag("--partial", options->partial, "Export an unfinished journal, as far as it goes");
  app->add_flag(
      "--overwrite", options->overwrite,
      "Write into a folder that is not empty, and replace what an earlier export wrote there");
  app->add_option("--per-token", options->per_token,
                  "File with the losses (default: the one that the journal names)")
      ->type_name("FILE.safetensors");
  add_size(*app, "--drop-chunk-targets", options->drop_chunk_targets,
           "Leave out the loss of the first token of every chunk of this size, as the published "
           "code does with 131072 (default: drop none)");
  commands.push_back({.app = app, .run = [options](Context&) { run_export(*options); }});
}

}  // namespace stuffed::cli
