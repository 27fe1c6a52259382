// The results that a page shows: journals, and the cells of merged sweeps.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "stuffed/io/journal.h"
#include "stuffed/report/report.h"

namespace stuffed::report {

struct Run {
  std::string name;            // unique on the page
  std::filesystem::path path;  // its journal, or the sweep's
  std::string schema = {};
  io::json config = {}, provenance = {};
  std::vector<io::json> records = {};  // in the order of the journal
  std::map<std::string, size_t> by_key = {};
  bool finished = false;
  std::filesystem::path arrays = {};  // the file beside it, if its config names one

  /// Null if there is none.
  const io::json* find(const std::string& key) const;
  /// Records whose keys begin with `prefix`, in the order of the journal.
  std::vector<const io::json*> all(std::string_view prefix) const;
  /// The name, and whether the run is finished.
  std::string label() const { return finished ? name : name + " (unfinished)"; }
  /// Tokens of `train_len_tokens`, 0 if none was given.
  int64_t train_len() const;
  /// Its mitigations, in order; "none".
  std::string mitigations() const;
};

using Runs = std::vector<const Run*>;

/// All results, cells of sweeps one by one.
/// Errors  Input
std::vector<Run> read_runs(const std::vector<std::filesystem::path>& results,
                           const std::vector<std::string>& labels);

Runs of_schema(const std::vector<Run>& runs, std::string_view schema);

/// What reading fields of `run` throws, as an Input error that names its journal.
void explained(const Run& run, const std::function<void()>& read);

}  // namespace stuffed::report
