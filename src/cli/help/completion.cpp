#include "src/cli/help/completion.h"

#include <regex>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "src/cli/suggest.h"

namespace stuffed::cli {

namespace {

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}

/// -o and --output, as they are typed.
std::vector<std::string> flags_of(const CLI::Option& option) {
  std::vector<std::string> flags;
  for (const std::string& name : option.get_snames())
    flags.push_back("-" + name);
  for (const std::string& name : option.get_lnames())
    flags.push_back("--" + name);
  return flags;
}

std::vector<std::string> words_of(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* command : commands_of(app))
    words.push_back(command->get_name());
  for (const CLI::Option* option : shown_options(app))
    for (const std::string& name : option->get_lnames())
      words.push_back("--" + name);
  return words;
}

/// The cases of bash's script for one command and what is below it: `path` is " bench scan".
struct BashCases {
  std::vector<std::string> paths, values, commands, options;

  void add(const CLI::App& app, const std::string& path) {
    (commands_of(app).empty() ? options : commands)
        .push_back(
            fmt::format("      \"{}\") words=\"{}\" ;;\n", path, fmt::join(words_of(app), " ")));
    for (const CLI::Option* option : shown_options(app))
      if (const auto choices = values_of(*option); !choices.empty())
        for (const std::string& flag : flags_of(*option))
          values.push_back(
              fmt::format("    \"{} {}\") words=\"{}\" ;;\n", path, flag, fmt::join(choices, " ")));
    for (const CLI::App* command : commands_of(app)) {
      paths.push_back(fmt::format("\"{} {}\"", path, command->get_name()));
      add(*command, path + " " + command->get_name());
    }
  }
};

/// Within single quotes of zsh, in _arguments' own notation.
std::string quoted(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':')
      out += '\\';
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out;
}

bool takes_files(const std::string& type) {
  static const std::regex kFiles("FILE|PATH|DIR|OUT|PAGE|JSON");
  return std::regex_search(type, kFiles);
}

/// What _arguments is told of an option: its flags exclude one another unless it may be repeated.
std::string zsh_option(const CLI::Option& option) {
  const std::vector<std::string> flags = flags_of(option);
  const bool repeats = option.get_expected_max() > 1 ||
                       option.get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
  std::string value;
  if (option.get_type_size() != 0) {
    const auto choices = values_of(option);
    const std::string type = option.get_type_name();
    value = fmt::format(":{}:{}", quoted(type),
                        takes_files(type)  ? "_files"
                        : !choices.empty() ? fmt::format("({})", fmt::join(choices, " "))
                                           : " ");
  }
  std::string out;
  for (const std::string& flag : flags)
    out += fmt::format(" \\\n    '{}{}[{}]{}'",
                       repeats ? "*" : fmt::format("({})", fmt::join(flags, " ")), flag,
                       quoted(option.get_description()), value);
  return out;
}

/// A function for the command, and one for each below it.
void add_zsh_function(const CLI::App& app, const std::string& name, std::string& out) {
  const auto commands = commands_of(app);
  std::string arguments;
  for (const CLI::Option* option : shown_options(app))
    arguments += zsh_option(*option);
  if (commands.empty()) {
    out +=
        fmt::format("{}() {{\n  _arguments -s{} \\\n    '*:FILE:_files'\n}}\n\n", name, arguments);
    return;
  }
  std::string listed, cases;
  for (const CLI::App* command : commands) {
    const std::string function = name + "_" + command->get_name();
    listed += fmt::format("    '{}:{}'\n", command->get_name(), quoted(command->get_description()));
    cases += fmt::format("        {}) {} ;;\n", command->get_name(), function);
    add_zsh_function(*command, function, out);
  }
  out += fmt::format(
      "{0}() {{\n  local curcontext=\"$curcontext\" state line\n  local -a commands\n"
      "  commands=(\n{1}  )\n  _arguments -C{2} \\\n    '1: :->command' '*:: :->arguments'\n"
      "  case $state in\n    command) _describe command commands ;;\n    arguments)\n"
      "      case $line[1] in\n{3}      esac ;;\n  esac\n}}\n\n",
      name, listed, arguments, cases);
}

}  // namespace

std::vector<const CLI::Option*> shown_options(const CLI::App& app) {
  return app.get_options([](const CLI::Option* option) {
    return option->nonpositional() && !option->get_group().empty();
  });
}

std::vector<std::string> values_of(const CLI::Option& option) {
  static const std::regex kWord("([a-z][a-z0-9_.-]*)(\\[.*\\])?");
  std::vector<std::string> values;
  std::istringstream alternatives(option.get_type_name());
  std::string alternative;
  std::smatch found;
  while (std::getline(alternatives, alternative, '|'))
    if (std::regex_match(alternative, found, kWord))
      values.push_back(found[1]);
  return values;
}

std::string bash_completion(const CLI::App& root) {
  BashCases cases;
  cases.add(root, "");
  return fmt::format(R"(# bash completion for stuffed, as `stuffed completion bash` writes it.
_stuffed() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} path= words= i
  if [[ $current == '=' ]]; then
    current=
  elif [[ $previous == '=' ]]; then
    previous=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "$path ${{COMP_WORDS[i]}}" in
      {}) path="$path ${{COMP_WORDS[i]}}" ;;
      " help") ;;
    esac
  done
  case "$path $previous" in
{}  esac
  if [[ -z $words ]]; then
    case "$path" in
{}    esac
  fi
  if [[ $current == -* ]]; then
    case "$path" in
{}    esac
  fi
  # Without words, readline offers files.
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _stuffed stuffed
)",
                     fmt::join(cases.paths, "|"), fmt::join(cases.values, ""),
                     fmt::join(cases.commands, ""), fmt::join(cases.options, ""));
}

std::string zsh_completion(const CLI::App& root) {
  std::string functions;
  add_zsh_function(root, "_stuffed", functions);
  return "#compdef stuffed\n# zsh completion for stuffed, as `stuffed completion zsh` writes "
         "it.\n\n" +
         functions +
         "# Loaded from fpath the first time, or read by `source`.\n"
         "if [[ $funcstack[1] == _stuffed ]]; then _stuffed \"$@\"; else compdef _stuffed stuffed; "
         "fi\n";
}

}  // namespace stuffed::cli
