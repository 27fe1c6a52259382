// What ppl-by-length shows: a line of progress on stderr, and at the end a table with bars.
#pragma once
#include <chrono>
#include <string>

#include "stuffed/eval/ppl_by_length.h"

namespace stuffed::cli {

/// Rewrites one line on a terminal; elsewhere prints a plain line every ten seconds.
class PplProgressLine {
 public:
  PplProgressLine();
  void show(const eval::PplProgress& progress);
  void end() const;

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

/// At most 32 rows, evenly spread over the buckets; the bar's length is the mean loss.
std::string ppl_table(const io::json& summary);

}  // namespace stuffed::cli
