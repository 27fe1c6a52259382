// What retention shows: a line of progress on stderr, and at the end two tables.
#pragma once
#include <chrono>
#include <string>

#include "stuffed/eval/retention.h"

namespace stuffed::cli {

/// Rewrites one line on a terminal; elsewhere prints a plain line every ten seconds.
class RetentionProgressLine {
 public:
  RetentionProgressLine();
  void show(const eval::RetentionProgress& progress);
  void end() const;

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

/// Half-lives by layer, and for each number of tokens read what its suffixes say. A bar's length is
/// the effective remembrance.
std::string retention_table(const io::json& summary);

}  // namespace stuffed::cli
