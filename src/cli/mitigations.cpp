// `stuffed mitigations`: what each one does, takes, costs and goes with.
#include "stuffed/recurrence/mitigations.h"

#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"

namespace stuffed::cli {

namespace {

std::string text_of(const MitigationHelp& help) {
  return fmt::format("{}:{}\n  {}\n  Cost: {}. Rules: {}.\n", help.name, help.keys, help.effect,
                     help.cost, help.rules);
}

void print_all(bool as_json) {
  io::json all = io::json::array();
  for (const MitigationHelp& help : mitigation_help()) {
    if (!as_json)
      cli::print(stdout, "{}", text_of(help));
    all.push_back({{"name", help.name},
                   {"keys", help.keys},
                   {"effect", help.effect},
                   {"cost", help.cost},
                   {"rules", help.rules}});
  }
  if (as_json)
    cli::print(stdout, "{}\n", all.dump());
}

}  // namespace

void add_mitigations(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "mitigations",
      "List the mitigations: what each does, its keys with their defaults, its cost and its rules",
      "  stuffed mitigations\n"
      "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --mitigation rri -o "
      "rri.jsonl\n"
      "  stuffed ppl-by-length --model DIR --text war.txt --length 1M --mitigation rri \\\n"
      "    --mitigation sliding_window:tokens=4096 -o both.jsonl\n");
  auto as_json = std::make_shared<bool>(false);
  app->add_flag("--json", *as_json, "Print one JSON array instead of text");
  commands.push_back({.app = app, .run = [as_json](Context&) { print_all(*as_json); }});
}

}  // namespace stuffed::cli
