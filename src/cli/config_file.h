// --config: options of one command from a flat TOML file.
#pragma once
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace stuffed::cli {

/// Reads `key = value` for the subcommand that was given; a key is a long option without its
/// dashes, `_` and `-` being the same, and an array repeats the option. CLI11 then treats an
/// unknown key as an error.
class TomlConfig : public CLI::Config {
 public:
  explicit TomlConfig(const CLI::App& root) : root_(&root) {}

  /// Errors  Input if it is not TOML; Usage for a table or a date, which no option takes
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;
  /// Not offered: a run's configuration is in the header of its results.
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return {}; }

 private:
  const CLI::App* root_;  // not owned; knows the file's name and the subcommand
};

}  // namespace stuffed::cli
