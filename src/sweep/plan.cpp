#include "stuffed/sweep/plan.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include "src/sweep/run_table.h"
#include "stuffed/core/error.h"

namespace stuffed::sweep {

namespace fs = std::filesystem;

namespace {

/// Options that name a file of their own, which goes to the sweep's folder.
constexpr std::array kOutputs = {"per-token", "arrays"};

bool is_output(const std::string& key) {
  return std::ranges::find(kOutputs, key) != kOutputs.end();
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

}  // namespace

const Setting* Cell::find(const std::string& key) const {
  const auto found = std::ranges::find(settings, key, &Setting::key);
  return found == settings.end() ? nullptr : &*found;
}

std::string Cell::value(const std::string& key) const {
  const Setting* const setting = find(key);
  return setting == nullptr || setting->values.empty() ? "" : setting->values.back();
}

fs::path Cell::results() const {
  return command == "train" ? fs::path(name) / "train.jsonl" : fs::path(name + ".jsonl");
}

std::vector<std::string> Cell::arguments(const fs::path& folder) const {
  std::vector<std::string> words;
  for (size_t begin = 0; begin < command.size();) {
    const size_t end = std::min(command.find(' ', begin), command.size());
    words.push_back(command.substr(begin, end - begin));
    begin = end + 1;
  }
  for (const auto& [key, values] : settings)
    for (const std::string& value : values)
      words.push_back(fmt::format(
          "--{}={}", key,
          is_output(key) ? (folder / replaced(value, "{name}", name)).string() : value));
  words.push_back("-o");
  words.push_back((folder / (command == "train" ? fs::path(name) : results())).string());
  return words;
}

std::string Cell::model_key() const {
  std::string key;
  for (const char* part : {"model", "shape", "device", "dtype", "gated-norm", "tokenizer"})
    key += value(part) + "\n";
  return key;
}

io::json Cell::as_json() const {
  io::json options = io::json::object();
  for (const auto& [key, values] : settings)
    options[key] = values.size() == 1 ? io::json(values.front()) : io::json(values);
  return {{"name", name},
          {"command", command},
          {"options", options},
          {"results", results().generic_string()}};
}

std::vector<Cell> read_plan(const fs::path& config, const OptionsOf& options_of) {
  std::vector<Cell> cells;
  for (const RunTable& run : read_run_tables(config, options_of))
    for (Cell& cell : run.cells())
      cells.push_back(std::move(cell));
  check(!cells.empty(), Error::Kind::Usage, "{}: has no cell", config.string());
  std::map<fs::path, const Cell*> places;
  for (const Cell& cell : cells) {
    std::vector<fs::path> files = {cell.name};  // what lies beside the results begins with it, too
    for (const char* key : kOutputs)
      if (cell.find(key) != nullptr)
        files.push_back(
            fs::path(replaced(cell.value(key), "{name}", cell.name)).lexically_normal());
    for (const fs::path& file : files) {
      const auto [there, is_new] = places.emplace(file, &cell);
      check(is_new, Error::Kind::Usage,
            "{}: two cells have the name '{}' ({} and {}); give them names that differ, such as "
            "name = \"{{command}}-{{model}}\"",
            config.string(), file.string(), there->second->as_json().at("options").dump(),
            cell.as_json().at("options").dump());
    }
  }
  return cells;
}

namespace {

/// Errors  Usage
int64_t whole_number(const std::string& text, const std::string& what) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  check(!text.empty() && *end == '\0' && value >= 0 && value < 1'000'000'000, Error::Kind::Usage,
        "{}: '{}' is not a whole number", what, text);
  return value;
}

std::optional<int64_t> variable(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr)
    return {};
  return whole_number(value, name);
}

}  // namespace

Shard parse_shard(const std::string& text, const std::string& flag) {
  const size_t slash = text.find('/');
  check(slash != text.npos, Error::Kind::Usage,
        "{}: '{}' is not i/n, such as 0/4, 1/4, 2/4 and 3/4", flag, text);
  const Shard shard{.index = whole_number(text.substr(0, slash), flag),
                    .count = whole_number(text.substr(slash + 1), flag)};
  check(shard.index < shard.count, Error::Kind::Usage,
        "{} {}: the first of n is 0/n, the last one n-1/n", flag, text);
  return shard;
}

Shard shard_of_environment() {
  const std::optional<int64_t> id = variable("SLURM_ARRAY_TASK_ID");
  if (!id)
    return {};
  const int64_t step = std::max<int64_t>(1, variable("SLURM_ARRAY_TASK_STEP").value_or(1));
  const Shard shard{.index = (*id - variable("SLURM_ARRAY_TASK_MIN").value_or(0)) / step,
                    .count = variable("SLURM_ARRAY_TASK_COUNT").value_or(1)};
  check(shard.index >= 0 && shard.index < shard.count, Error::Kind::Usage,
        "SLURM_ARRAY_TASK_ID {}: is part {} of {}; number the array from first to last in equal "
        "steps, or give --shard i/n",
        *id, shard.index, shard.count);
  return shard;
}

std::vector<Cell> take_shard(const std::vector<Cell>& cells, const Shard& shard) {
  std::vector<Cell> taken;
  for (size_t i = static_cast<size_t>(shard.index); i < cells.size();
       i += static_cast<size_t>(shard.count))
    taken.push_back(cells[i]);
  return taken;
}

}  // namespace stuffed::sweep
