// The cells of a sweep in one file.
#include <algorithm>
#include <map>

#include "src/eval/merge/parts.h"
#include "stuffed/core/error.h"
#include "stuffed/io/journal_ends.h"
#include "stuffed/io/output_guard.h"

namespace stuffed::eval {

namespace merging {

namespace {

namespace fs = std::filesystem;
using io::json;

struct PlannedCell {
  std::string name;
  json plan;       // without its status
  fs::path found;  // its results; empty: nowhere yet
};

/// The plan of a folder, by order.
std::vector<PlannedCell> read_cells(const fs::path& folder) {
  const json plan = io::read_json(folder / "sweep.json");
  const bool good = plan.is_object() && plan.value("schema", json()) == kSweepSchema &&
                    plan.value("version", json()) == kSweepVersion && plan.contains("cells") &&
                    plan.at("cells").is_array();
  check(good, Error::Kind::Input, "{}: is not the plan of a sweep",
        (folder / "sweep.json").string());
  std::vector<PlannedCell> cells;
  for (json cell : plan.at("cells")) {
    check(cell.is_object() && cell.contains("name") && cell.at("name").is_string() &&
              cell.contains("results") && cell.at("results").is_string(),
          Error::Kind::Input, "{}: a cell has no name or results",
          (folder / "sweep.json").string());
    for (const char* field : {"status", "error", "exit_code"})
      cell.erase(field);
    cells.push_back({.name = cell.at("name"), .plan = cell, .found = {}});
  }
  return cells;
}

void check_plans(const std::vector<PlannedCell>& a,
                 const fs::path& of_a,
                 const std::vector<PlannedCell>& b,
                 const fs::path& of_b) {
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const json left = i < a.size() ? a[i].plan : json(), right = i < b.size() ? b[i].plan : json();
    check(left == right, Error::Kind::Input,
          "{} and {}: are folders of different sweeps; cell {} is {} and {}", of_a.string(),
          of_b.string(), i, left.dump(), right.dump());
  }
}

bool is_finished(const fs::path& results) {
  std::error_code error;
  return fs::is_regular_file(results, error) && io::look_into_journal(results).finished;
}

std::vector<PlannedCell> find_cells(const std::vector<fs::path>& folders) {
  std::vector<PlannedCell> cells = read_cells(folders.front());
  for (const fs::path& folder : folders) {
    check_plans(cells, folders.front(), read_cells(folder), folder);
    for (PlannedCell& cell : cells) {
      const fs::path results = folder / cell.plan.at("results").get<std::string>();
      if (!is_finished(results))
        continue;
      check(cell.found.empty(), Error::Kind::Input, "the cell '{}' is in both {} and {}", cell.name,
            cell.found.string(), results.string());
      cell.found = results;
    }
  }
  std::vector<std::string> missing;
  for (const PlannedCell& cell : cells)
    if (cell.found.empty())
      missing.push_back(cell.name);
  check(missing.empty(), Error::Kind::Input,
        "{} of {} cells are not finished: {}; run the sweep again", missing.size(), cells.size(),
        fmt::join(missing, ", "));
  return cells;
}

/// What the merged header says of a cell; paths are seen from the new file.
json describe_cell(const PlannedCell& cell, const fs::path& output) {
  const io::JournalEnd end = io::look_into_journal(cell.found);
  json out = cell.plan;
  out["results"] = fs::absolute(cell.found)
                       .lexically_proximate(fs::absolute(output).parent_path())
                       .generic_string();
  out["schema"] = end.header.schema;
  out["version"] = end.header.version;
  out["config"] = end.header.config;
  for (const char* fact : {"state", "training"})  // of the model, for `fit`
    if (end.header.provenance.is_object() && end.header.provenance.contains(fact))
      out[fact] = end.header.provenance.at(fact);
  return out;
}

}  // namespace

}  // namespace merging

Merged merge_sweeps(const std::vector<std::filesystem::path>& folders,
                    const std::filesystem::path& output,
                    const MergeOptions& options) {
  using namespace merging;  // NOLINT
  const std::vector<PlannedCell> cells = find_cells(folders);
  io::OutputGuard guard;
  io::json config = {{"cells", io::json::array()}};
  for (const PlannedCell& cell : cells) {
    guard.reads("RESULTS", cell.found);
    config["cells"].push_back(describe_cell(cell, output));
  }
  guard.writes("-o", output);
  io::Journal journal = io::Journal::open_anew(output,
                                               {.schema = kSweepSchema,
                                                .version = kSweepVersion,
                                                .config = config,
                                                .provenance = options.provenance},
                                               options.overwrite);
  for (const PlannedCell& cell : cells)
    io::read_journal(cell.found, [&](const io::json& record, io::LinePlace) {
      io::json fields = fields_of(record);
      fields["cell"] = cell.name;
      journal.append(cell.name + "/" + record.at("key").get<std::string>(), fields);
    });
  journal.finish();
  return {.parts = std::ssize(cells), .records = journal.size(), .sidecar = {}};
}

}  // namespace stuffed::eval
