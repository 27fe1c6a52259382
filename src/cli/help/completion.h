// Completion of commands, options and their values for shells, from the same App as --help.
#pragma once
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace stuffed::cli {

/// Options of `app` that help shows.
std::vector<const CLI::Option*> shown_options(const CLI::App& app);

/// The words that an option takes, such as f32 and bf16; none for numbers, names and files.
std::vector<std::string> values_of(const CLI::Option& option);

/// For bash's `source`, or a file under bash-completion/completions.
std::string bash_completion(const CLI::App& root);

/// For a folder of zsh's fpath, as _stuffed.
std::string zsh_completion(const CLI::App& root);

}  // namespace stuffed::cli
