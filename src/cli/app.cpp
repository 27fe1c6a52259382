#include "src/cli/app.h"

#include <algorithm>
#include <cstdlib>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <CLI/CLI.hpp>

#include "src/cli/config_file.h"
#include "src/cli/help/formatter.h"
#include "src/cli/options.h"
#include "src/cli/run/failure.h"
#include "src/cli/run/invocation.h"
#include "src/cli/suggest.h"
#include "src/cli/what_to_try.h"
#include "stuffed/core/cores.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/memory.h"
#include "stuffed/core/version.h"
#include "stuffed/io/regular_file.h"
#include "stuffed/ops/op.h"

namespace stuffed::cli {

#define COMMAND(name) void add_##name(CLI::App& root, Commands& commands);
#include "src/cli/commands.inc"
#undef COMMAND

namespace {

/// `--batch_size=3` is `--batch-size=3`; what follows `--` is left alone.
std::vector<std::string> with_dashes(std::vector<std::string> arguments) {
  for (std::string& argument : arguments) {
    if (argument == "--")
      break;
    if (argument.starts_with("--"))
      std::replace(
          argument.begin(),
          argument.begin() + static_cast<int64_t>(std::min(argument.find('='), argument.size())),
          '_', '-');
  }
  return arguments;
}

/// `help COMMAND` is `COMMAND --help`.
std::vector<std::string> with_help(std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments.front() == "help") {
    arguments.erase(arguments.begin());
    arguments.emplace_back("--help");
  }
  return arguments;
}

const CLI::App* subcommand(const CLI::App& app, const std::string& name) {
  const auto found = app.get_subcommands(
      [&name](const CLI::App* candidate) { return candidate->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

std::string path_of(const CLI::App& app) {
  return app.get_parent() == nullptr ? "" : path_of(*app.get_parent()) + " " + app.get_name();
}

/// CLI11 would answer `stuffed nosuch --help` with the help of stuffed, as if all were well.
/// Errors  Usage for a word where a command is expected
void check_command(const CLI::App& root, const std::vector<std::string>& arguments) {
  const CLI::App* app = &root;
  for (size_t i = 0; i < arguments.size() && !command_names(*app).empty(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--")
      return;
    if (word.starts_with('-') && app != &root)
      return;  // an option's value may follow
    if (word.starts_with('-')) {
      check(root.get_option_no_throw(word.substr(0, word.find('='))) != nullptr, Error::Kind::Usage,
            "{}: the options of a command go behind its name\nRun 'stuffed --help' for the "
            "commands.",
            word);
      i += word == "--config";
      continue;
    }
    const CLI::App* next = subcommand(*app, word);
    check(next != nullptr, Error::Kind::Usage,
          "{} is not a command{}\nRun 'stuffed{} --help' for the commands.", word,
          did_you_mean(word, command_names(*app)), path_of(*app));
    app = next;
  }
}

const CLI::App& chosen_of(const CLI::App& root) {
  const CLI::App* at = &root;
  while (!at->get_subcommands().empty())
    at = at->get_subcommands().front();
  return *at;
}

std::string not_known(const CLI::App& app, const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  return fmt::format("{} is not known here{}", name, did_you_mean(name, option_names(app)));
}

/// Of a key in a --config file.
std::string no_option(const CLI::App& app, const std::string& key) {
  std::string meant = nearest("--" + key, option_names(app));
  return fmt::format("no option '{}'{}", key,
                     meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant.substr(2)));
}

/// True if there is something to run; false if a text was asked for and printed.
bool parse(CLI::App& root, std::vector<std::string> arguments) {
  check_command(root, arguments);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  try {
    root.parse(std::move(arguments));
    return true;
  } catch (const CLI::Success& asked) {  // --help, --version
    root.exit(asked);
    return false;
  } catch (const CLI::FileError& error) {
    fail(Error::Kind::Input, "--config: {}", error.what());
  } catch (const CLI::ConfigError& error) {
    // CLI11 calls the file INI, and the key COMMAND.KEY.
    const std::string why = error.what(), of_key = "INI was not able to parse ";
    fail(Error::Kind::Usage,
         "{}: {}; keys are the long options of the command without their dashes",
         root.get_config_ptr()->as<std::string>(),
         why.starts_with(of_key)
             ? no_option(chosen_of(root), why.substr(std::max(why.rfind('.') + 1, of_key.size())))
             : why);
  } catch (const CLI::ParseError& error) {
    const CLI::App& app = chosen_of(root);
    const std::string chosen = path_of(app);
    // What is missing is noticed first, but what is mistyped is what the user wants to hear of.
    const std::vector<std::string> unknown = root.remaining(/*recurse=*/true);
    const bool mistyped = !unknown.empty() && (dynamic_cast<const CLI::RequiredError*>(&error) ||
                                               dynamic_cast<const CLI::ExtrasError*>(&error) ||
                                               dynamic_cast<const CLI::ValidationError*>(&error));
    fail(Error::Kind::Usage, "{}\nRun 'stuffed{} --help' for the {}.",
         mistyped ? not_known(app, unknown.front()) : error.what(), chosen,
         chosen.empty() ? "commands" : "options");
  }
}

}  // namespace

void add_commands([[maybe_unused]] CLI::App& root, [[maybe_unused]] Commands& commands) {
#define COMMAND(name) add_##name(root, commands);
#include "src/cli/commands.inc"
#undef COMMAND
}

namespace {

std::unique_ptr<CLI::App> make_root(Commands& commands) {
  auto root = std::make_unique<CLI::App>(
      "Feeds very long token streams through recurrent language models and records what happens.",
      "stuffed");
  root->formatter(std::make_shared<HelpFormatter>(help_width()));  // those below inherit it
  root->get_formatter()->column_width(kHelpColumn);
  root->set_version_flag("-V,--version", version_text(),
                         "Print the commit, LibTorch, CUDA and features of this binary, and exit");
  root->require_subcommand(1);
  root->footer(
      std::string(
          "Run 'stuffed COMMAND --help' or 'stuffed help COMMAND' for the options of a command, "
          "with examples.\n") +
      kExitCodes);
  root->set_config("--config", "",
                   "Read the options of the command from a flat TOML file; those on the command "
                   "line take precedence")
      ->check(CLI::Validator(
          [](const std::string& path) {
            io::check_regular_file(path);  // a pipe would be waited for
            return std::string();
          },
          ""));
  root->config_formatter(std::make_shared<TomlConfig>(*root));
  root->allow_config_extras(CLI::config_extras_mode::error);
  add_commands(*root, commands);
  return root;
}

/// LibTorch takes what OMP_NUM_THREADS says, or the machine's processors; of these the process may
/// be allowed a few.
void set_threads(int64_t asked) {
  const int64_t threads = asked > 0 ? asked
                          : std::getenv("OMP_NUM_THREADS") != nullptr
                              ? at::get_num_threads()
                              : std::min<int64_t>(at::get_num_threads(), usable_cores());
  if (threads != at::get_num_threads())
    at::set_num_threads(static_cast<int>(threads));
}

}  // namespace

Invocation::Invocation(const std::vector<std::string>& command_line) : root_(make_root(commands_)) {
  if (!parse(*root_, with_help(with_dashes({command_line.begin() + 1, command_line.end()}))))
    return;
  const auto chosen = std::find_if(commands_.begin(), commands_.end(),
                                   [](const Command& command) { return command.app->parsed(); });
  check(chosen != commands_.end(), Error::Kind::Internal,
        "a subcommand was parsed that nothing runs");
  command_ = &*chosen;
}

Invocation::~Invocation() = default;

int64_t threads_asked(const CLI::App& command) {
  const CLI::Option* const option = command.get_option("--threads");
  return option->count() > 0 ? parse_size(option->results().back(), "--threads") : 0;
}

namespace {

ops::Impls impls_asked(const CLI::App& command) {
  const CLI::Option* const option = command.get_option_no_throw("--impl");
  return option != nullptr && option->count() > 0 ? ops::parse_impls(option->results().back())
                                                  : ops::Impls{};
}

}  // namespace

void Invocation::run(Context& context) const {
  set_threads(threads_asked(*command_->app));
  const ops::Forcing forcing(impls_asked(*command_->app));
  const at::AutoGradMode gradients(command_->needs_gradients);
  context.feeding.reset();
  std::string why;
  try {
    return command_->run(context);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error))
      throw;
    why = failure_of(error).message;
  }
  // Behind the catch: what the command held is free again.
  fail(Error::Kind::Memory, "{}{}", why, what_to_try(*command_->app, context));
}

std::optional<std::vector<std::string>> options_of(const std::string& command) {
  Commands commands;
  const std::unique_ptr<CLI::App> root = make_root(commands);
  for (const Command& candidate : commands) {
    if (path_of(*candidate.app) != " " + command)
      continue;
    std::vector<std::string> names;
    for (const CLI::Option* option : candidate.app->get_options())
      for (const std::string& name : option->get_lnames())
        names.push_back(name);
    return names;
  }
  return {};
}

void run(int argc, const char* const* argv) {
  const std::vector<std::string> command_line(argv, argv + argc);
  const Invocation invocation(command_line);
  if (invocation.command() == nullptr)
    return;
  if (invocation.command()->resumable)
    catch_signals();  // before LibTorch starts threads
  Context context{.command_line = command_line, .models = {}};
  invocation.run(context);
}

}  // namespace stuffed::cli
