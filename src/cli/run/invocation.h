// A command line that was understood, and can be run.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/cli/app.h"

namespace stuffed::cli {

class Invocation {
 public:
  /// `command_line` begins with the program's name. `--help` and `--version` print to stdout.
  /// Errors  Usage; Input for a --config that cannot be read
  explicit Invocation(const std::vector<std::string>& command_line);
  ~Invocation();
  Invocation(const Invocation&) = delete;
  Invocation& operator=(const Invocation&) = delete;

  /// Null if only a text was asked for.
  const Command* command() const { return command_; }
  /// On --threads, in the gradient mode that the command wants.
  /// Errors  whatever the command throws
  void run(Context& context) const;

 private:
  Commands commands_;  // filled as the root is made
  std::unique_ptr<CLI::App> root_;
  const Command* command_ = nullptr;
};

/// --threads of a command line that was parsed; 0 without it.
int64_t threads_asked(const CLI::App& command);

/// The long options, without dashes, of a command such as "ppl-by-length" or "bench scan"; nothing
/// if there is no such command.
std::optional<std::vector<std::string>> options_of(const std::string& command);

}  // namespace stuffed::cli
