// A sweep's TOML becomes cells: one command with its options each.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::sweep {

/// An option by its long name without dashes, and its values.
struct Setting {
  std::string key;
  std::vector<std::string> values;

  bool operator==(const Setting&) const = default;
};

struct Cell {
  std::string name;
  std::string command;            // "ppl-by-length", "bench scan"
  std::vector<Setting> settings;  // without the output

  /// Null if it is not set.
  const Setting* find(const std::string& key) const;
  /// "" if it is not set.
  std::string value(const std::string& key) const;
  /// Its results, relative to the sweep's folder.
  std::filesystem::path results() const;
  /// What follows the program's name; results and arrays go to `folder`.
  std::vector<std::string> arguments(const std::filesystem::path& folder) const;
  /// Cells that have this in common can share a loaded model.
  std::string model_key() const;
  io::json as_json() const;
};

/// The long options of a command, without dashes; nothing if no sweep can run it.
using OptionsOf =
    std::function<std::optional<std::vector<std::string>>(const std::string& command)>;

/// Cells in the order of the file; of a grid the first axis varies slowest.
///
///     [defaults]                      # options of every run whose command has them
///     [[runs]]
///     command = "ppl-by-length"
///     name = "{model}-{length}"       # optional
///     bucket = 64                     # options, as in --config
///     [runs.grid]                     # every key is an axis, every element of its array a value
///     model = ["a", "b"]
///     mitigation = [[], ["rri"]]      # a value may be an array itself
///     [[runs.only]]                   # keep the cells that match one of these,
///     [[runs.except]]                 # and drop those that match one of these
///
/// Errors  Input if the file is missing or not TOML; Usage, naming run and key, for a key that is
///         not known, a command that no sweep runs, a name that two cells have, and the like
std::vector<Cell> read_plan(const std::filesystem::path& config, const OptionsOf& options_of);

/// Which part of the cells a process runs: i, i+n, i+2n, ...
struct Shard {
  int64_t index = 0, count = 1;
};
/// "2/8", with the first one 0; `flag` is what it was given by.
/// Errors  Usage
Shard parse_shard(const std::string& text, const std::string& flag = "--shard");
/// What Slurm's array says: (SLURM_ARRAY_TASK_ID - MIN) / STEP of COUNT; 0/1 outside of one.
/// Errors  Usage if the array has gaps, so that no such parts cover all cells
Shard shard_of_environment();
std::vector<Cell> take_shard(const std::vector<Cell>& cells, const Shard& shard);

}  // namespace stuffed::sweep
