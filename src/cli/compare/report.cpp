#include "src/cli/compare/report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace stuffed::cli {

namespace {

using eval::ComparedValue;

constexpr size_t kMostRows = 32;  // a comment is to be read

/// Digits enough that 0.1 % is seen.
std::string shown_number(double value, bool with_sign = false) {
  if (!std::isfinite(value))
    return "-";
  return with_sign ? fmt::format("{:+.4g}", value) : fmt::format("{:.6g}", value);
}

std::string change_text(const ComparedValue& row) {
  const double share = 100 * row.difference() / std::abs(row.a);
  return std::isfinite(share) ? fmt::format("{:+.3f} %", share) : "-";
}

std::string interval_text(const ComparedValue& row) {
  return std::isfinite(row.low) ? fmt::format("{:+.4g} to {:+.4g}", row.low, row.high) : "-";
}

/// A vertical line would end the cell.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '|' ? "\\|" : std::string(1, c);
  return out;
}

std::string place_text(const ComparedValue& row) {
  const std::string where = row.axis.empty() ? "all" : fmt::format("{} {}", row.axis, row.at);
  return row.cell.empty() ? where : row.cell + ": " + where;
}

/// Those over everything, and so many of the others, evenly spread; the one that moved farthest is
/// always among them.
std::vector<const ComparedValue*> thinned(const std::vector<ComparedValue>& rows) {
  std::vector<const ComparedValue*> chosen, others;
  for (const ComparedValue& row : rows)
    (row.axis.empty() ? chosen : others).push_back(&row);
  const size_t step = (others.size() + kMostRows - 1) / kMostRows;
  const auto worst = std::ranges::max_element(
      others, {}, [](const ComparedValue* row) { return row->distance() / std::abs(row->a); });
  for (size_t i = 0; i < others.size(); ++i)
    if (i % step == 0 || others.begin() + static_cast<std::ptrdiff_t>(i) == worst)
      chosen.push_back(others[i]);
  return chosen;
}

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == text.npos)
    return text;
  std::string quoted = "\"";
  for (const char c : text)
    quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string csv_number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "";
}

}  // namespace

std::string compare_markdown(const CompareReport& report) {
  const eval::ResultComparison& found = report.found;
  std::string text =
      fmt::format("### {}: {} against {}\n\n", report.failures.empty() ? "Compared" : "FAILED",
                  escaped(report.b.string()), escaped(report.a.string()));
  text += fmt::format("{}, {} {} paired.\n", found.schema, found.pairs, found.pairs_of);
  for (const std::string& failure : report.failures)
    text += fmt::format("- **FAILED** {}\n", escaped(failure));
  for (const std::string& setting : found.settings)
    text += fmt::format("- {}\n", escaped(setting));
  text +=
      "\n| metric | at | A | B | B - A | | 95 % interval of B - A "
      "|\n|---|---|---:|---:|---:|---:|---|\n";
  const std::vector<const ComparedValue*> rows = thinned(found.rows);
  for (const ComparedValue* row : rows)
    text +=
        fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", row->metric,
                    escaped(place_text(*row)), shown_number(row->a), shown_number(row->b),
                    shown_number(row->difference(), true), change_text(*row), interval_text(*row));
  if (rows.size() < found.rows.size())
    text += fmt::format("\n{} of {} rows; --format csv has all.\n", rows.size(), found.rows.size());
  return text;
}

std::string compare_csv(const CompareReport& report) {
  std::string text = "cell,metric,axis,at,a,b,difference,low,high,pairs\n";
  for (const ComparedValue& row : report.found.rows)
    text += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", csv_cell(row.cell), row.metric, row.axis,
                        csv_cell(row.at), csv_number(row.a), csv_number(row.b),
                        csv_number(row.difference()), csv_number(row.low), csv_number(row.high),
                        row.pairs);
  return text;
}

io::json compare_json(const CompareReport& report) {
  const eval::ResultComparison& found = report.found;
  io::json out = {{"schema", "stuffed.compare"}, {"version", 1},
                  {"a", report.a.string()},      {"b", report.b.string()},
                  {"compared", found.schema},    {"pairs", found.pairs},
                  {"pairs_of", found.pairs_of},  {"settings", found.settings},
                  {"failures", report.failures}, {"metrics", io::json::object()},
                  {"rows", io::json::array()}};
  for (const auto& [name, value] : found.metrics)
    out["metrics"][name] = io::number_or_null(value);
  for (const ComparedValue& row : found.rows) {
    out["rows"].push_back({{"metric", row.metric},
                           {"axis", row.axis},
                           {"at", row.at},
                           {"a", io::number_or_null(row.a)},
                           {"b", io::number_or_null(row.b)},
                           {"difference", io::number_or_null(row.difference())},
                           {"low", io::number_or_null(row.low)},
                           {"high", io::number_or_null(row.high)},
                           {"pairs", row.pairs}});
    if (!row.cell.empty())
      out["rows"].back()["cell"] = row.cell;
  }
  return out;
}

}  // namespace stuffed::cli
