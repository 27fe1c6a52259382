#include "src/cli/suggest.h"

#include <algorithm>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace stuffed::cli {

namespace {

/// Letters inserted, removed, replaced, or swapped with their neighbour.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last, last, row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before_last = std::exchange(last, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
  }
  return row.back();
}

}  // namespace

std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  constexpr size_t kLongest = 64;  // nobody types a longer name
  if (name.empty() || name.size() > kLongest)
    return {};
  std::string best;
  size_t least = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : names)
    if (const size_t wrong = distance(name, candidate); wrong < least) {
      least = wrong;
      best = candidate;
    }
  if (!best.empty())
    return best;
  const auto begins = std::ranges::find_if(
      names, [&](const std::string& candidate) { return candidate.starts_with(name); });
  return begins != names.end() && name.find_first_not_of('-') != name.npos ? *begins : "";
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& names) {
  const std::string meant = nearest(name, names);
  return meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant);
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent())
    for (const CLI::Option* option : at->get_options())
      for (const std::string& name : option->get_lnames())
        names.push_back("--" + name);
  return names;
}

}  // namespace stuffed::cli
