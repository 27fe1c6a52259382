// How --help looks: descriptions in a column, wrapped to the terminal.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

namespace stuffed::cli {

/// Columns for help: those of the terminal that standard output is, else what COLUMNS says, else
/// 100; at least 60.
size_t help_width();

/// `text` with its lines broken at spaces so that none is longer than `width`, where words allow.
/// What continues a line begins where that does; what continues a row of a table (words, two spaces
/// or more, words) begins in its second column. Examples (lines that begin with two spaces and
/// "stuffed") stay whole, so that they can be pasted.
std::string wrapped(std::string_view text, size_t width);

class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(size_t width) : width_(width) {}

  std::string make_help(const CLI::App* app,
                        std::string name,
                        CLI::AppFormatMode mode) const override;
  std::string make_description(const CLI::App* app) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_footer(const CLI::App* app) const override;

 private:
  std::string row(const std::string& name, const std::string& description) const;

  size_t width_;
};

}  // namespace stuffed::cli
