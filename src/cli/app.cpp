#include "src/cli/app.h"

#include <algorithm>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <CLI/CLI.hpp>

#include "src/cli/config_file.h"
#include "src/cli/options.h"
#include "src/cli/suggest.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/version.h"
#include "stuffed/io/regular_file.h"

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
                                               dynamic_cast<const CLI::ExtrasError*>(&error));
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

void run(int argc, const char* const* argv) {
  CLI::App root(
      "Feeds very long token streams through recurrent language models and records what happens.",
      "stuffed");
  root.set_version_flag("--version", version_text(),
                        "Commit, LibTorch, CUDA and features of this binary");
  root.require_subcommand(1);
  root.get_formatter()->column_width(kHelpColumn);
  root.footer(
      std::string("Run 'stuffed COMMAND --help' for what a command needs, with examples.\n") +
      kExitCodes);
  root.set_config("--config", "",
                  "Read options from a flat TOML file; those on the command line win")
      ->check(CLI::Validator(
          [](const std::string& path) {
            io::check_regular_file(path);  // a pipe would be waited for
            return std::string();
          },
          ""));
  root.config_formatter(std::make_shared<TomlConfig>(root));
  root.allow_config_extras(CLI::config_extras_mode::error);

  Commands commands;
  add_commands(root, commands);
  Context context{.command_line = {argv, argv + argc}, .models = {}};
  if (!parse(root, with_dashes({argv + 1, argv + argc})))
    return;

  const auto chosen = std::find_if(commands.begin(), commands.end(),
                                   [](const Command& command) { return command.app->parsed(); });
  check(chosen != commands.end(), Error::Kind::Internal,
        "a subcommand was parsed that nothing runs");
  std::optional<at::NoGradGuard> no_gradients;
  if (!chosen->needs_gradients)
    no_gradients.emplace();
  if (chosen->resumable)
    catch_signals();
  chosen->run(context);
}

}  // namespace stuffed::cli
