// A sweep's folder: the plan, what became of each cell, and what went wrong.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/sweep/plan.h"
#include "stuffed/sweep/pool.h"

namespace stuffed::sweep {

inline constexpr const char* kSweepSchema = "stuffed.sweep";
inline constexpr int kSweepVersion = 1;

class Folder {
 public:
  /// Makes nothing yet.
  /// Errors  Output if there is no folder but something else; Input if it holds a sweep.json that is not
  ///         a sweep's
  explicit Folder(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  Job job(const Cell& cell) const;
  /// Its results are finished, it did not fail, and its command line was the same (but for output,
  /// threads, --save-every, and a --fail-nonfinite that is no longer given): running it again would
  /// change nothing.
  bool is_done(const Cell& cell) const;
  /// How long the whole cell took, if it is known: NAME.time.json.
  std::optional<double> seconds(const Cell& cell) const;
  /// NAME.error.json, which is there as long as the cell fails; NAME.time.json of one that is done.
  void record(const Cell& cell, const Outcome& outcome) const;
  /// Makes the folder, and in it sweep.json: every cell with its options, and its status as the folder shows it.
  /// Errors  Output
  void write_plan(const std::vector<Cell>& cells) const;

 private:
  std::filesystem::path error_file(const Cell& cell) const;
  std::filesystem::path time_file(const Cell& cell) const;
  io::json status_of(const Cell& cell) const;

  std::filesystem::path path_;
};

}  // namespace stuffed::sweep
