// Text and numbers as HTML. All that comes from a journal passes through here.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::report {

/// Shown as it is, in an element or an attribute; what is not UTF-8 becomes U+FFFD.
std::string escaped(std::string_view text);

/// For a <script> element: no `<` is left that could end it.
std::string script_json(const io::json& value);

/// 8192 -> "8K".
std::string size_text(int64_t tokens);

/// Four digits.
std::string digits(double value);

/// One cell of a table, as HTML.
struct Cell {
  std::string html;
  bool is_number = false;
  bool is_long = false;  // broken over lines
};

Cell text(std::string_view value);
Cell count(int64_t value);
/// Shown with four digits, held in full (<data value>); a dash for what is not finite.
Cell number(double value);
/// A value and its 95 % interval, which is left out where it is not finite.
Cell interval(double value, double low, double high);
/// A field of a record: a number, null, or a text.
Cell value(const io::json& field);
/// NaN for null.
double number_of(const io::json& field);

struct Table {
  std::string caption;  // as all strings here: text, not HTML
  std::vector<std::string> columns;
  std::vector<std::vector<Cell>> rows = {};  // the first cell of each names it
};

/// Nothing for a table without rows.
std::string html_of(const Table& table);

/// Something that can be folded away.
std::string details(std::string_view summary, std::string_view html, bool open);

std::string paragraph(std::string_view text);

}  // namespace stuffed::report
