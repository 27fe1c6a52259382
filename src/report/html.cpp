#include "html.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "src/io/utf8.h"

namespace stuffed::report {

namespace {

std::string replaced(std::string_view text, char what, std::string_view by) {
  std::string out;
  for (const char c : text)
    c == what ? void(out += by) : out.push_back(c);
  return out;
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : io::replace_invalid_utf8(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        // Control characters may not stand in HTML.
        out += (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f
                   ? std::string("\xEF\xBF\xBD")
                   : std::string(1, c);
    }
  }
  return out;
}

std::string script_json(const io::json& value) {
  const std::string text = value.dump(-1, ' ', false, io::json::error_handler_t::replace);
  return replaced(text, '<', "\\u003c");
}

std::string size_text(int64_t tokens) {
  for (const auto& [unit, scale] : {std::pair{"M", int64_t{1} << 20}, {"K", int64_t{1} << 10}})
    if (tokens >= scale)
      return fmt::format("{:.4g}{}", static_cast<double>(tokens) / static_cast<double>(scale),
                         unit);
  return fmt::format("{}", tokens);
}

std::string digits(double value) {
  return fmt::format("{:.4g}", value);
}

Cell text(std::string_view value) {
  constexpr size_t kLongest = 28;  // bytes that a line of a table takes
  return {.html = escaped(value), .is_long = value.size() > kLongest};
}

Cell count(int64_t value) {
  return {.html = fmt::format("<data value=\"{0}\">{0}</data>", value), .is_number = true};
}

Cell number(double value) {
  if (!std::isfinite(value))
    return {.html = "<span title=\"not finite, or not measured\">–</span>", .is_number = true};
  return {.html = fmt::format("<data value=\"{}\">{}</data>", value, digits(value)),
          .is_number = true};
}

Cell interval(double value, double low, double high) {
  Cell cell = number(value);
  if (std::isfinite(value) && std::isfinite(low) && std::isfinite(high))
    cell.html +=
        fmt::format(" <small>[<data value=\"{}\">{}</data>, <data value=\"{}\">{}</data>]</small>",
                    low, digits(low), high, digits(high));
  return cell;
}

Cell value(const io::json& field) {
  if (field.is_number_integer())
    return count(field.get<int64_t>());
  if (field.is_number() || field.is_null())
    return number(number_of(field));
  return text(field.is_string() ? field.get<std::string>() : field.dump());
}

double number_of(const io::json& field) {
  return field.is_null() ? std::nan("") : field.get<double>();
}

namespace {

std::string row_of(const std::vector<Cell>& cells) {
  std::string row = "<tr>";
  for (size_t i = 0; i < cells.size(); ++i) {
    const char* const kind = cells[i].is_number ? " class=\"number\""
                             : cells[i].is_long ? " class=\"long\""
                                                : "";
    row += i == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", kind, cells[i].html)
                  : fmt::format("<td{}>{}</td>", kind, cells[i].html);
  }
  return row + "</tr>\n";
}

bool has_numbers(const Table& table, size_t column) {
  return std::ranges::any_of(
      table.rows, [&](const std::vector<Cell>& row) { return row.at(column).is_number; });
}

}  // namespace

std::string html_of(const Table& table) {
  if (table.rows.empty())
    return "";
  std::string head, body;
  for (size_t i = 0; i < table.columns.size(); ++i)
    head +=
        fmt::format("<th scope=\"col\"{}>{}</th>", has_numbers(table, i) ? " class=\"number\"" : "",
                    escaped(table.columns[i]));
  for (const std::vector<Cell>& row : table.rows)
    body += row_of(row);
  const std::string caption = escaped(table.caption);
  return fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{0}\"><table>"
      "<caption>{0}</caption>\n<thead><tr>{1}</tr></thead>\n<tbody>\n{2}</tbody></table></div>\n",
      caption, head, body);
}

std::string details(std::string_view summary, std::string_view html, bool open) {
  return fmt::format("<details{}><summary>{}</summary>\n{}</details>\n", open ? " open" : "",
                     escaped(summary), html);
}

std::string paragraph(std::string_view text) {
  return fmt::format("<p>{}</p>\n", escaped(text));
}

}  // namespace stuffed::report
