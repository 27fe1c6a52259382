// A line of progress on standard error.
#pragma once
#include <chrono>
#include <string>

#include "stuffed/eval/progress.h"

namespace stuffed::cli {

/// Rewrites one line on a terminal; elsewhere prints a plain line every ten seconds. Says how much
/// is done, how fast, and how long the rest will take at that speed.
class ProgressLine {
 public:
  /// `unit` is what is counted.
  explicit ProgressLine(std::string unit = "tokens");
  void show(const eval::Progress& progress);
  /// `what` comes first: "document 3". `done_by_process` is what the speed is of; where `done` is
  /// all there is, the time left is that of `what`.
  void show(const std::string& what, int64_t done, int64_t total, int64_t done_by_process);
  /// Leaves the line as it is and goes to the next.
  void end() const;

 private:
  using Clock = std::chrono::steady_clock;
  std::string unit_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace stuffed::cli
