// A line of progress on standard error.
#pragma once
#include <chrono>
#include <string>

#include "stuffed/eval/progress.h"

namespace stuffed::cli {

/// Rewrites one line on a terminal; elsewhere prints a plain line every ten seconds.
class ProgressLine {
 public:
  /// `unit` is what is counted.
  explicit ProgressLine(std::string unit = "tokens");
  void show(const eval::Progress& progress);
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
