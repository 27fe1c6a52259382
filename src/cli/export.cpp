// `stuffed export`: results in the formats of other programs.
#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "stuffed/eval/export_paper.h"

namespace stuffed::cli {

void add_export(CLI::App& root, Commands& commands) {
  struct Options {
    std::string format = "paper", results, output;
    bool overwrite = false;
  };
  CLI::App* app = add_subcommand(
      root, "export", "Writes results in the file formats of other programs",
      "  stuffed export --format paper passkey.jsonl -o output/mamba2-370m\n"
      "\npaper: args.json and passkey/preds_<tokens>.jsonl, as the code published with "
      "arXiv:2410.07145 writes them.\n");
  auto options = std::make_shared<Options>();
  app->add_option("results", options->results, "Journal of a passkey run")
      ->required()
      ->type_name("RESULTS.jsonl");
  add_choice(*app, "--format", options->format, {"paper"}, "Whose files");
  app->add_option("-o,--output", options->output, "Folder to write to")
      ->required()
      ->type_name("DIR");
  app->add_flag("--overwrite", options->overwrite, "Replace files of other contents");
  commands.push_back({.app = app, .run = [options](Context&) {
                        eval::export_paper(options->results, options->output, options->overwrite);
                      }});
}

}  // namespace stuffed::cli
