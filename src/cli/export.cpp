// `stuffed export`: results in the formats of other programs.
#include <memory>

#include <fmt/format.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/eval/export_paper.h"

namespace stuffed::cli {

void add_export(CLI::App& root, Commands& commands) {
  struct Options {
    std::string format = "paper", results, output, per_token;
    bool overwrite = false;
    int64_t drop_chunk_targets = 0;
  };
  CLI::App* app = add_subcommand(
      root, "export", "Convert results to the file formats of other programs",
      "  stuffed export --format paper passkey.jsonl -o output/mamba2-370m\n"
      "  stuffed export --format paper newlines.jsonl -o . --drop-chunk-targets 128K\n"
      "\npaper: the files that the code published with arXiv:2410.07145 writes.\n"
      "passkey: args.json and passkey/preds_<tokens>.jsonl; relative_postion is where the needle "
      "is "
      "among the blocks (of a\n"
      "--protocol paper-code run on its own grid the depth asked for, as that code writes it).\n"
      "ppl-by-length --per-token: result_per_token/<model>/<text>/args.json and per_token_loss.pt, "
      "[documents, T-1] f32 in nats,\n"
      "which torch.load(weights_only=True) reads; column j scores token j+1.\n"
      "A journal that is not finished gives its trials so far, and a warning; unfinished losses "
      "are "
      "refused.\n");
  auto options = std::make_shared<Options>();
  app->add_option("results", options->results,
                  "Journal of a passkey run, or of a ppl-by-length run with --per-token")
      ->required()
      ->type_name("RESULTS.jsonl");
  add_choice(*app, "--format", options->format, {"paper"}, "File format to write");
  app->add_option("-o,--output", options->output, "Folder to write to")
      ->required()
      ->type_name("DIR");
  app->add_flag("--overwrite", options->overwrite, "Replace files that hold something else");
  app->add_option("--per-token", options->per_token,
                  "File with the losses (default: the one that the journal names)")
      ->type_name("FILE.safetensors");
  add_size(*app, "--drop-chunk-targets", options->drop_chunk_targets,
           "Leave out the loss of the first token of every chunk of this size, as the published "
           "code does (131072 there); default: none");
  commands.push_back({.app = app, .run = [options](Context&) {
                        const eval::PaperFiles files =
                            eval::export_paper(options->results, options->output,
                                               {.per_token = options->per_token,
                                                .drop_chunk_targets = options->drop_chunk_targets,
                                                .overwrite = options->overwrite});
                        for (const std::string& warning : files.warnings)
                          cli::print(stderr, "export: {}\n", warning);
                        cli::print(stdout, "{} files written in {}\n", files.written.size(),
                                   options->output);
                      }});
}

}  // namespace stuffed::cli
