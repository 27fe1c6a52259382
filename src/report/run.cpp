#include "run.h"

#include <algorithm>
#include <set>

#include <fmt/ranges.h>

#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/journal_ends.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::report {

namespace fs = std::filesystem;
using io::json;

namespace {

constexpr int kNewestVersion = 1;  // of every schema

const std::set<std::string> kSchemas = {
    "stuffed.bench",     "stuffed.fit",       "stuffed.passkey",     "stuffed.ppl_by_length",
    "stuffed.retention", "stuffed.retrieval", "stuffed.state_stats", "stuffed.sweep",
    "stuffed.train",     "stuffed.verify"};

void check_schema(const fs::path& path, const std::string& schema, int64_t version) {
  check(kSchemas.contains(schema), Error::Kind::Input, "{}: schema {} is not known; known are {}",
        path.string(), shown(schema), fmt::join(kSchemas, ", "));
  check(version <= kNewestVersion, Error::Kind::Input,
        "{}: has version {} of {}, this build knows up to {}; use a newer stuffed", path.string(),
        version, schema, kNewestVersion);
}

void add_record(Run& run, json record) {
  const std::string key = record.at("key");
  check(run.by_key.emplace(key, run.records.size()).second, Error::Kind::Input,
        "{}: key {} comes twice", run.path.string(), shown(key));
  run.records.push_back(std::move(record));
}

void find_arrays(Run& run, const fs::path& journal) {
  const json name = run.config.is_object() ? run.config.value("arrays", json()) : json();
  if (name.is_string())
    run.arrays = journal.parent_path() / name.get<std::string>();
}

/// train.jsonl says nothing: there its folder names the run.
std::string name_of(const fs::path& path) {
  const std::string stem = path.stem().string();
  const std::string folder =
      fs::absolute(path).lexically_normal().parent_path().filename().string();
  return stem == "train" && !folder.empty() ? folder : stem;
}

/// A sweep's cells, each as a journal of its own.
std::vector<Run> cells_of(const Run& sweep) {
  std::vector<Run> cells;
  std::map<std::string, size_t> places;
  for (const json& cell : sweep.config.at("cells")) {
    const std::string name = cell.at("name");
    check_schema(sweep.path, cell.at("schema"), cell.at("version"));
    check(places.emplace(name, cells.size()).second, Error::Kind::Input, "{}: cell {} comes twice",
          sweep.path.string(), shown(name));
    cells.push_back({.name = name,
                     .path = sweep.path,
                     .schema = cell.at("schema"),
                     .config = cell.at("config"),
                     .provenance = sweep.provenance,
                     .finished = sweep.finished});
    find_arrays(cells.back(), sweep.path.parent_path() / cell.at("results").get<std::string>());
  }
  for (json record : sweep.records) {
    const std::string name = record.at("cell"), key = record.at("key");
    const auto place = places.find(name);
    check(place != places.end() && key.starts_with(name + "/"), Error::Kind::Input,
          "{}: the record {} is of no cell", sweep.path.string(), shown(key));
    record["key"] = key.substr(name.size() + 1);
    add_record(cells[place->second], std::move(record));
  }
  return cells;
}

std::vector<Run> read(const fs::path& path, const std::string& label) {
  Run run{.name = label.empty() ? name_of(path) : label, .path = path};
  const io::JournalEnd end =
      io::read_journal(path, [&](const json& record, io::LinePlace) { add_record(run, record); });
  check(!end.empty, Error::Kind::Input, "{}: is not a stuffed journal (not one whole line)",
        path.string());
  run.schema = end.header.schema;
  check_schema(path, run.schema, end.header.version);
  run.config = end.header.config;
  run.provenance = end.header.provenance;
  run.finished = end.finished;
  find_arrays(run, path);
  std::vector<Run> runs;
  if (run.schema == "stuffed.sweep")
    explained(run, [&] { runs = cells_of(run); });
  else
    runs.push_back(std::move(run));
  return runs;
}

bool is_journal(const fs::path& path) {
  try {
    io::look_into_journal(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// The journals in a folder, and of the training runs in folders there, in the order of their names;
/// any other path is itself.
std::vector<fs::path> journals_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error))
    return {path};
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path)) {
    const fs::path file = entry.is_directory(error) ? entry.path() / "train.jsonl" : entry.path();
    if (file.extension() == ".jsonl" && fs::is_regular_file(file, error) && is_journal(file))
      found.push_back(file);
  }
  std::ranges::sort(found);
  check(!found.empty(), Error::Kind::Input,
        "{}: holds no journal of stuffed (*.jsonl, or */train.jsonl)", path.string());
  return found;
}

void make_unique(std::vector<Run>& runs) {
  std::map<std::string, int> seen;
  std::set<std::string> taken;
  for (Run& run : runs) {
    std::string name = run.name;
    while (!taken.insert(name).second)
      name = fmt::format("{} ({})", run.name, ++seen[run.name] + 1);
    run.name = name;
  }
}

}  // namespace

const json* Run::find(const std::string& key) const {
  const auto found = by_key.find(key);
  return found == by_key.end() ? nullptr : &records[found->second];
}

std::vector<const json*> Run::all(std::string_view prefix) const {
  std::vector<const json*> found;
  for (const json& record : records)
    if (record.at("key").get_ref<const std::string&>().starts_with(prefix))
      found.push_back(&record);
  return found;
}

int64_t Run::train_len() const {
  const json length = config.value("train_len_tokens", json());
  return length.is_null() ? 0 : length.get<int64_t>();
}

std::string Run::mitigations() const {
  const std::vector<std::string> names = config.value("mitigations", std::vector<std::string>());
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " + "));
}

std::vector<Run> read_runs(const std::vector<fs::path>& results,
                           const std::vector<std::string>& labels) {
  std::vector<Run> runs;
  for (size_t i = 0; i < results.size(); ++i) {
    const std::vector<fs::path> paths = journals_of(results[i]);
    const std::string label = i < labels.size() && paths.size() == 1 ? labels[i] : "";
    for (const fs::path& path : paths)
      for (Run& run : read(path, label))
        runs.push_back(std::move(run));
  }
  make_unique(runs);
  return runs;
}

Runs of_schema(const std::vector<Run>& runs, std::string_view schema) {
  Runs found;
  for (const Run& run : runs)
    if (run.schema == schema)
      found.push_back(&run);
  return found;
}

void explained(const Run& run, const std::function<void()>& read) {
  try {
    read();
  } catch (const json::exception& error) {
    fail(Error::Kind::Input, "{}: is not such as stuffed writes: {}", run.path.string(),
         io::reason_of(error));
  }
}

}  // namespace stuffed::report
