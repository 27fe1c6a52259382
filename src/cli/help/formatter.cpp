#include "src/cli/help/formatter.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <sstream>
#include <sys/ioctl.h>
#include <unistd.h>

namespace stuffed::cli {

namespace {

constexpr size_t kNarrowest = 60, kWithoutTerminal = 100;

size_t columns_of_environment() {
  const char* const text = std::getenv("COLUMNS");
  const std::string_view value = text == nullptr ? "" : text;
  size_t columns = 0;
  std::from_chars(value.data(), value.data() + value.size(), columns);
  return columns;
}

/// Where the second column of a table's row begins, or else the text.
size_t hanging_indent(std::string_view line, size_t width) {
  const size_t first = std::min(line.find_first_not_of(' '), line.size());
  const size_t gap = line.find("  ", first);
  const size_t second = gap == line.npos ? line.npos : line.find_first_not_of(' ', gap);
  return second == line.npos || second > width / 2 ? std::min(first, width / 2) : second;
}

void append_wrapped(std::string_view line, size_t width, std::string& out) {
  const size_t hang = hanging_indent(line, width);
  size_t pad = 0, first_cut = hang;
  while (pad + line.size() > width) {
    size_t cut = line.rfind(' ', width - pad);
    if (cut == line.npos || cut < first_cut)
      cut = line.find(' ', std::max(first_cut, width - pad));  // a word longer than the line
    if (cut == line.npos)
      break;
    out.append(pad, ' ').append(line.substr(0, line.find_last_not_of(' ', cut) + 1)) += '\n';
    line.remove_prefix(std::min(line.find_first_not_of(' ', cut), line.size()));
    pad = hang;
    first_cut = 0;
  }
  out.append(pad, ' ').append(line);
}

}  // namespace

size_t help_width() {
  winsize terminal = {};
  if (::isatty(STDOUT_FILENO) != 0 && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &terminal) == 0 &&
      terminal.ws_col > 0)
    return std::max<size_t>(terminal.ws_col, kNarrowest);
  const size_t columns = columns_of_environment();
  return columns > 0 ? std::max(columns, kNarrowest) : kWithoutTerminal;
}

std::string wrapped(std::string_view text, size_t width) {
  std::string out;
  while (true) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (line.starts_with("  stuffed "))
      out.append(line);
    else
      append_wrapped(line, width, out);
    if (end == text.size())
      return out;
    out += '\n';
    text.remove_prefix(end + 1);
  }
}

std::string HelpFormatter::row(const std::string& name, const std::string& description) const {
  const size_t column = column_width_;
  std::string out = "  " + name;
  out.append(out.size() < column ? column - out.size() : 0, ' ');
  if (out.size() > column)
    out.append("\n").append(column, ' ');
  std::istringstream lines(wrapped(description, width_ - column));
  std::string line;
  for (bool first = true; std::getline(lines, line); first = false)
    out.append(first ? "" : "\n").append(first ? 0 : column, ' ').append(line);
  return out + "\n";
}

std::string HelpFormatter::make_description(const CLI::App* app) const {
  return wrapped(app->get_description(), width_) + "\n";
}

/// CLI11's has two empty lines between groups.
std::string HelpFormatter::make_help(const CLI::App* app,
                                     std::string name,
                                     CLI::AppFormatMode mode) const {
  std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
  for (size_t at; (at = text.find("\n\n\n")) != text.npos;)
    text.erase(at, 1);
  return text;
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  // What may be named or not is described once, where it stands without a name.
  if (!is_positional && option->get_positional())
    return row(make_option_name(option, false) + " " + option->get_type_name(),
               "The same, by name");
  return row(make_option_name(option, is_positional) + make_option_opts(option),
             make_option_desc(option));
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  return row(command->get_name(), command->get_description());
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  return wrapped(app->get_footer(), width_) + "\n";
}

}  // namespace stuffed::cli
