// `stuffed report`: results as one page.
#include "stuffed/report/report.h"

#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"

namespace stuffed::cli {

namespace {

struct ReportArguments {
  std::vector<std::string> results;
  std::string output;
  report::ReportOptions how;
};

void run_report(const ReportArguments& options) {
  const std::vector<std::filesystem::path> results(options.results.begin(), options.results.end());
  check(options.how.labels.size() <= results.size(), Error::Kind::Usage,
        "{} --label for {} RESULTS; give at most one for each, in their order",
        options.how.labels.size(), results.size());
  const report::Report made = report::write_report(results, options.output, options.how);
  for (const std::string& warning : made.warnings)
    cli::print(stderr, "report: {}\n", warning);
  cli::print(stdout, "{}: {}{}, {:.1f} MB\n", options.output, counted(made.results, "result"),
             made.unfinished > 0 ? fmt::format(" ({} unfinished)", made.unfinished) : "",
             static_cast<double>(made.bytes) / 1e6);
}

}  // namespace

void add_report(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "report", "Make one page of any results: figures, their numbers, and how each was made",
      "  stuffed report war.jsonl passkey.jsonl -o report.html\n"
      "  stuffed report out/demo -o report.html --title 'Two models, one collapse'\n"
      "  stuffed report short.jsonl long.jsonl --label 'trained at 1K' --label 'trained at 8K' -o "
      "report.html\n"
      "\nThe page needs no network and no other file. It shows losses by position (of the bucket, "
      "over the prefix, over the last\n"
      "tokens), mitigations beside the plain model, passkeys, states by layer and head, retention, "
      "training, verdicts and times;\n"
      "beneath each figure stand its numbers. Runs of one command are drawn over one another; a "
      "sweep that was merged is shown by its\n"
      "cells. Unfinished journals are drawn as far as they go, and marked.\n");
  auto options = std::make_shared<ReportArguments>();
  app->add_option("results", options->results,
                  "Journals of any command, or folders that contain journals or training runs")
      ->required()
      ->type_name("RESULTS");
  app->add_option("-o,--output", options->output, "The page")->required()->type_name("PAGE.html");
  app->add_option("--title", options->how.title, "Heading of the page")->capture_default_str();
  app->add_option("--label", options->how.labels,
                  "Name of a result, in the order of RESULTS; repeatable (default: its file name)")
      ->take_all()
      ->expected(1)
      ->type_name("NAME");
  add_size(*app, "--last-tokens", options->how.last_tokens,
           "Tokens averaged in 'the loss over the last tokens before a position'; rounded to whole "
           "buckets");
  app->add_flag("--overwrite", options->how.overwrite,
                "Replace an existing file that is not a report");
  commands.push_back({.app = app, .run = [options](Context&) { run_report(*options); }});
}

}  // namespace stuffed::cli
