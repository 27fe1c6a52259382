// `stuffed merge`: parts of a run, or the cells of a sweep, as one result.
#include "stuffed/eval/merge.h"

#include <algorithm>
#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace {

struct MergeArguments {
  std::vector<std::string> results;
  std::string output;
  bool overwrite = false;
};

void run_merge(const MergeArguments& options, const Context& context) {
  check(options.output != "-", Error::Kind::Usage, "-o -: a file is needed; name one");
  std::error_code ignored;
  const auto folders = std::ranges::count_if(options.results, [&](const std::string& path) {
    return std::filesystem::is_directory(path, ignored);
  });
  const bool all = folders == std::ssize(options.results);
  check(folders == 0 || all, Error::Kind::Usage,
        "give either parts of a run or folders of a sweep, not both");
  const std::vector<std::filesystem::path> paths(options.results.begin(), options.results.end());
  const eval::MergeOptions how{.overwrite = options.overwrite,
                               .provenance = io::provenance(context.command_line, at::kCPU)};
  const eval::Merged merged = all ? eval::merge_sweeps(paths, options.output, how)
                                  : eval::merge_parts(paths, options.output, how);
  cli::print(stdout, "{}: {} of {}{}\n", options.output, counted(merged.records, "record"),
             counted(merged.parts, all ? "cell" : "part"),
             merged.sidecar.empty() ? "" : ", arrays in " + merged.sidecar.string());
}

}  // namespace

void add_merge(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "merge",
      "Join the parts of a run into what a single run would have written, or the cells of a sweep "
      "into one file",
      "  stuffed ppl-by-length --model DIR --jsonl books.jsonl --length 64K --skip-short --part "
      "0/2 "
      "-o part-0.jsonl\n"
      "  stuffed merge part-0.jsonl part-1.jsonl -o books.jsonl\n"
      "  stuffed merge out/models -o models.jsonl\n"
      "  stuffed merge node1/models node2/models -o models.jsonl\n"
      "\n"
      "Parts are finished journals of one command (--part i/n) whose headers agree except for "
      "provenance, paths, device and\n"
      "part. A part, document or trial that is missing or occurs twice is named in an error (exit "
      "code 3). Summaries are\n"
      "computed anew; the arrays beside the parts become OUT.safetensors. Of the folders of a "
      "sweep, one must hold each cell of\n"
      "the plan, finished; a record KEY of cell NAME becomes NAME/KEY, and the arrays stay where "
      "they are.\n");
  auto options = std::make_shared<MergeArguments>();
  app->add_option("results", options->results, "Journals of the parts, or folders of a sweep")
      ->required()
      ->type_name("RESULTS");
  add_journal(*app, "-o,--output", options->output, "The merged results, JSON Lines")->required();
  app->add_flag("--overwrite", options->overwrite, "Replace existing results");
  commands.push_back(
      {.app = app, .run = [options](Context& context) { run_merge(*options, context); }});
}

}  // namespace stuffed::cli
