// How far a sweep is, on standard error.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stuffed/sweep/folder.h"

namespace stuffed::cli {

/// A line that is rewritten on a terminal, and plain lines elsewhere: cells done, what runs, and the
/// time left over all cells. Cells that end get a line of their own, red on a terminal if they fail,
/// unless NO_COLOR is set.
class SweepProgress {
 public:
  /// `tokens` of each cell, as far as its options say; 0 where they do not.
  SweepProgress(const std::vector<sweep::Job>& jobs,
                std::vector<int64_t> tokens,
                size_t done_before);

  void on_start(size_t job);
  void on_progress(size_t job, int64_t tokens);
  void on_end(size_t job, const sweep::Outcome& outcome);
  /// Shows the line, if it is time.
  void show();
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string text() const;
  double seconds_left() const;
  double weight(size_t job) const;

  const std::vector<sweep::Job>& jobs_;
  std::vector<int64_t> tokens_;
  std::map<size_t, int64_t> running_;  // tokens fed
  size_t done_before_, ended_ = 0, failed_ = 0;
  double weight_done_ = 0;
  bool terminal_, colour_;
  Clock::time_point start_ = Clock::now(), shown_ = start_;
};

}  // namespace stuffed::cli
