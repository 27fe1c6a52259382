// One [[runs]] of a sweep's TOML.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "stuffed/sweep/plan.h"

namespace stuffed::sweep {

/// An axis of the grid, and the values it takes.
struct Axis {
  std::string key;
  std::vector<std::vector<std::string>> values;
};

/// What [[runs.only]] and [[runs.except]] say: for each key the values that match, any of them.
struct Match {
  std::vector<std::pair<std::string, std::vector<std::vector<std::string>>>> wanted;

  bool fits(const Cell& cell) const;
};

struct RunTable {
  std::string where;  // for messages: "sweep.toml: runs 2"
  std::string command, name;
  std::vector<Setting> settings;  // of [defaults] and of the run
  std::vector<Axis> axes;         // in the order of the file
  std::vector<Match> only, except;

  /// Errors  Usage for a name with a part that is not known, or that is no file's
  std::vector<Cell> cells() const;
};

/// Errors  as read_plan()
std::vector<RunTable> read_run_tables(const std::filesystem::path& config,
                                      const OptionsOf& options_of);

}  // namespace stuffed::sweep
