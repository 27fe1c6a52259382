#include "src/sweep/run_table.h"

#include <algorithm>
#include <set>

#include "stuffed/core/error.h"

namespace stuffed::sweep {

namespace fs = std::filesystem;

namespace {

/// Keys whose values are paths: of these the last part tells them apart.
bool is_path(const std::string& key) {
  static const std::set<std::string> kPaths = {"model", "text", "jsonl", "tokens", "tokenizer"};
  return kPaths.contains(key);
}

/// As part of a file's name.
std::string tame(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       (c != '\0' && std::string_view("._+=,@-").find(c) != std::string_view::npos);
    name += plain ? c : '-';
  }
  return name;
}

std::string last_part(const std::string& path) {
  const fs::path whole = fs::path(path).lexically_normal();
  const std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  return name.empty() ? path : name;
}

std::string label_of(const std::vector<std::string>& values, bool shortened) {
  std::string label;
  for (const std::string& value : values)
    label += (label.empty() ? "" : "+") + tame(shortened ? last_part(value) : value);
  return label.empty() ? "none" : label;
}

/// Of a value among those of its axis: shortened, if these then still differ.
std::string label_in(const RunTable& run, const Setting& setting) {
  bool shortened = is_path(setting.key);
  for (const Axis& axis : run.axes)
    if (axis.key == setting.key) {
      std::set<std::string> labels;
      for (const auto& values : axis.values)
        labels.insert(label_of(values, shortened));
      shortened = shortened && labels.size() == axis.values.size();
    }
  return label_of(setting.values, shortened);
}

/// {key} is what the cell has of it.
std::string fill_in(const RunTable& run, const Cell& cell) {
  std::string name;
  for (size_t at = 0; at < run.name.size();) {
    const size_t open = std::min(run.name.find('{', at), run.name.size());
    name += run.name.substr(at, open - at);
    if (open == run.name.size())
      break;
    const size_t close = run.name.find('}', open);
    check(close != run.name.npos, Error::Kind::Usage, "{}: name = \"{}\": a }} is missing",
          run.where, run.name);
    std::string key = run.name.substr(open + 1, close - open - 1);
    std::ranges::replace(key, '_', '-');
    const Setting* const setting = cell.find(key);
    const bool is_axis = std::ranges::find(run.axes, key, &Axis::key) != run.axes.end();
    check(setting != nullptr || is_axis || key == "command", Error::Kind::Usage,
          "{}: name = \"{}\": there is no '{}' among the options", run.where, run.name, key);
    name += key == "command" ? tame(cell.command) : setting ? label_in(run, *setting) : "none";
    at = close + 1;
  }
  return name;
}

std::string name_of(const RunTable& run, const Cell& cell) {
  std::string name = fill_in(run, cell);
  if (run.name.empty()) {
    name = tame(cell.command);
    for (const Axis& axis : run.axes) {
      const Setting* const setting = cell.find(axis.key);
      name += "-" + (setting ? label_in(run, *setting) : "none");
    }
  }
  constexpr size_t kLongest = 200;  // a file's name is 255 bytes at most, and others are made of it
  const bool good = !name.empty() && name.size() <= kLongest && name.find('/') == name.npos &&
                    name.find('\0') == name.npos && !name.starts_with('.');
  check(good, Error::Kind::Usage,
        "{}: '{}' is not a valid file name; a name has 1 to {} bytes, no slash, and does not begin "
        "with a dot",
        run.where, name, kLongest);
  return name;
}

void set(std::vector<Setting>& settings, const std::string& key, std::vector<std::string> values) {
  const auto found = std::ranges::find(settings, key, &Setting::key);
  if (found != settings.end())
    found->values = std::move(values);
  else
    settings.push_back({key, std::move(values)});
}

}  // namespace

bool Match::fits(const Cell& cell) const {
  return std::ranges::all_of(wanted, [&](const auto& one) {
    const Setting* const setting = cell.find(one.first);
    const std::vector<std::string> has = setting ? setting->values : std::vector<std::string>();
    return std::ranges::find(one.second, has) != one.second.end();
  });
}

std::vector<Cell> RunTable::cells() const {
  size_t combinations = 1;
  for (const Axis& axis : axes) {
    combinations *= axis.values.size();
    check(combinations <= 1'000'000, Error::Kind::Usage, "{}: the grid has over a million cells",
          where);
  }
  std::vector<Cell> kept;
  for (size_t i = 0; i < combinations; ++i) {
    Cell cell{.name = {}, .command = command, .settings = settings};
    size_t rest = i, below = combinations;
    for (const Axis& axis : axes) {
      below /= axis.values.size();
      set(cell.settings, axis.key, axis.values[rest / below]);
      rest %= below;
    }
    std::erase_if(cell.settings, [](const Setting& setting) { return setting.values.empty(); });
    const auto fits = [&](const Match& match) { return match.fits(cell); };
    if ((!only.empty() && std::ranges::none_of(only, fits)) || std::ranges::any_of(except, fits))
      continue;
    cell.name = name_of(*this, cell);
    kept.push_back(std::move(cell));
  }
  return kept;
}

}  // namespace stuffed::sweep
