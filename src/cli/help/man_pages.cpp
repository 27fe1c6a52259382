#include "src/cli/help/man_pages.h"

#include <sstream>

#include <fmt/format.h>

#include "src/cli/help/completion.h"
#include "stuffed/core/version.h"

namespace stuffed::cli {

namespace {

/// A text line of man(7): hyphens that can be copied, backslashes as they are, and no line that is
/// taken for a request.
std::string escaped(const std::string& line) {
  std::string out = line.starts_with('.') || line.starts_with('\'') ? "\\&" : "";
  for (const char c : line)
    out += c == '\\'  ? "\\e"
           : c == '-' ? "\\-"
           : c == '~' ? "\\(ti"
           : c == '^' ? "\\(ha"
           : c == '`' ? "\\(ga"
                      : std::string(1, c);
  return out;
}

std::string header(const std::string& name) {
  std::string title = name;
  for (char& c : title)
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return fmt::format(".TH \"{}\" 1 \"\" \"stuffed {}\" \"User Commands\"\n", title,
                     build_info().version);
}

std::string row(const std::string& name, const std::string& description) {
  return fmt::format(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(description));
}

std::string option_row(const CLI::App& app, const CLI::Option& option, bool is_positional) {
  const auto& formatter = *app.get_formatter();
  const auto& look = dynamic_cast<const CLI::Formatter&>(formatter);
  return row(look.make_option_name(&option, is_positional) + look.make_option_opts(&option),
             option.get_description());
}

std::string options(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option :
       app.get_options([](const CLI::Option* option) { return option->get_positional(); }))
    out += option_row(app, *option, true);
  for (const std::string& group : app.get_groups()) {
    std::string rows;
    for (const CLI::Option* option : shown_options(app))
      if (option->get_group() == group)
        rows += option_row(app, *option, false);
    if (!rows.empty())
      out += fmt::format(".SS {}\n", escaped(group)) + rows;
  }
  return out;
}

/// The footer of --help: paragraphs, lines that stay as they are (those that are indented), and
/// headings of ours that have a section of their own in a manual.
std::string notes(const std::string& footer) {
  std::string out = ".SH NOTES\n";
  std::istringstream lines(footer);
  std::string line;
  bool is_literal = false;
  while (std::getline(lines, line)) {
    if (is_literal != line.starts_with("  ")) {
      is_literal = !is_literal;
      out += is_literal ? ".PP\n.nf\n" : ".fi\n.PP\n";
    }
    constexpr std::string_view kCodes = "Exit codes: ";
    if (line == "Examples:")
      out += ".SH EXAMPLES\n";
    else if (line.starts_with(kCodes))
      out += ".SH EXIT STATUS\n" + escaped(line.substr(kCodes.size())) + "\n";
    else if (!line.empty())
      out += escaped(line) + "\n";
    else if (!out.ends_with(".PP\n"))
      out += ".PP\n";
  }
  return out + (is_literal ? ".fi\n" : "");
}

/// The reader's tool complains of a paragraph without text.
std::string without_empty_paragraphs(std::string page) {
  for (const std::string_view next : {".SH", ".PP", ".nf\n.fi"})
    for (size_t at; (at = page.find(fmt::format("\n.PP\n{}", next))) != page.npos;)
      page.erase(at, 4);
  for (size_t at; (at = page.find("EXAMPLES\n.PP\n")) != page.npos;)
    page.erase(at + 9, 4);
  return page.ends_with(".PP\n") ? page.substr(0, page.size() - 4) : page;
}

std::string page_of(const CLI::App& app, const std::string& name, const std::string& command) {
  std::string page = header(name);
  const std::string& description = app.get_description();
  page += fmt::format(".SH NAME\n{} \\- {}\n", escaped(name), escaped(description));
  const auto& look = dynamic_cast<const CLI::Formatter&>(*app.get_formatter());
  std::string usage = look.make_usage(&app, command);
  usage = usage.substr(usage.find(' ') + 1);
  page += fmt::format(".SH SYNOPSIS\n{}\n.SH OPTIONS\n{}",
                      escaped(usage.substr(0, usage.find('\n'))), options(app));
  std::string commands;
  for (const CLI::App* below : app.get_subcommands({}))
    if (!below->get_group().empty())
      commands += row(below->get_name(), below->get_description());
  if (!commands.empty())
    page += ".SH COMMANDS\n" + commands;
  page += notes(app.get_footer());
  if (name != "stuffed")
    page += ".SH SEE ALSO\n.BR stuffed (1)\n";
  return without_empty_paragraphs(page);
}

void add_pages(const CLI::App& app,
               const std::string& name,
               const std::string& command,
               std::vector<std::pair<std::string, std::string>>& pages) {
  pages.emplace_back(name + ".1", page_of(app, name, command));
  for (const CLI::App* below : app.get_subcommands({}))
    if (!below->get_group().empty())
      add_pages(*below, name + "-" + below->get_name(), command + " " + below->get_name(), pages);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> man_pages(const CLI::App& root) {
  std::vector<std::pair<std::string, std::string>> pages;
  add_pages(root, "stuffed", "stuffed", pages);
  return pages;
}

}  // namespace stuffed::cli
