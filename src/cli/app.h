// The command line: which subcommands there are, and how the one that was asked for is run.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/cli/open_model.h"
#include "stuffed/eval/what_fits.h"

namespace CLI {
class App;
}

namespace stuffed::cli {

/// What a run needs beyond its own options. One process may run several commands in turn (a sweep
/// does), so whatever is worth keeping between them lives here.
struct Context {
  std::vector<std::string> command_line;
  ModelCache models;
  std::optional<eval::Feeding> feeding = {};  // what the command feeds at a time, once it knows
};

struct Command {
  CLI::App* app = nullptr;
  std::function<void(Context&)> run;  // throws Error; returns when all went well
  bool needs_gradients = false;       // all else runs under NoGradGuard
  bool resumable = false;  // a first signal lets it finish its record, then exit with code 75
};

using Commands = std::vector<Command>;

/// Adds every subcommand of commands.inc to `root`.
void add_commands(CLI::App& root, Commands& commands);

/// Parses and runs. `--help` and `--version` print to stdout.
/// Errors  Usage for a wrong command line; whatever the command throws
void run(int argc, const char* const* argv);

}  // namespace stuffed::cli
