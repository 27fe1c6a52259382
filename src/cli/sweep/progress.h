// How fast a sweep's cells are, and a line about it on standard error.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/sweep/plan.h"
#include "stuffed/sweep/pool.h"

namespace stuffed::cli {

/// Seconds that a unit of work took: of cells of the same command and model, else of the same
/// command, else of any.
class Rates {
 public:
  /// A cell's work, in any unit, and how long it took. Nothing is learnt from work of 0.
  void add(const sweep::Cell& cell, double work, double seconds);
  /// Nothing if no cell is finished.
  std::optional<double> seconds(const sweep::Cell& cell, double work) const;
  /// Whether cells of the same command are among those that are finished.
  bool knows(const sweep::Cell& cell) const;

 private:
  struct Sum {
    double work = 0, seconds = 0;
  };
  std::map<std::string, Sum> sums_;
};

/// A cell that is to be run.
struct PlannedWork {
  sweep::Cell cell;
  int64_t tokens = 0;  // by its options; 0 if they do not say
};

/// Says how many cells are done, what runs, and how long the rest will take: by what finished cells
/// took, of the same command and model if there are, and what those that run have fed so far.
/// Rewrites one line on a terminal, where failures are red unless NO_COLOR is set; elsewhere prints a
/// plain line every ten seconds.
class SweepProgress {
 public:
  /// `done_before` cells were skipped; `rates` (seconds per token) are those that earlier processes
  /// measured.
  SweepProgress(std::vector<PlannedWork> cells, size_t workers, size_t done_before, Rates rates);
  void on_start(size_t job);
  void on_progress(size_t job, int64_t tokens);
  void on_end(size_t job, const sweep::Outcome& outcome);
  void show();
  void finish();
  /// What show() shows.
  std::string text() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    int64_t tokens = 0;
    Clock::time_point since = {};
  };
  double seconds_left() const;  // below 0: not known yet

  std::vector<PlannedWork> cells_;
  std::vector<bool> ended_;
  Rates rates_;
  std::map<size_t, Running> running_;
  size_t workers_, done_before_, failed_ = 0;
  bool terminal_, colour_;
  Clock::time_point shown_ = Clock::now();
};

}  // namespace stuffed::cli
