#include "src/cli/progress_line.h"

#include <algorithm>
#include <cstdio>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "src/cli/duration.h"
#include "src/cli/print.h"
#include "stuffed/sweep/tell_owner.h"

namespace stuffed::cli {

std::string duration_text(double seconds) {
  const double minutes = seconds / 60;
  if (seconds < 120)
    return fmt::format("{:.0f} s", seconds);
  if (minutes < 120)
    return fmt::format("{:.0f} min", minutes);
  const auto whole = static_cast<int64_t>(std::min(minutes, 1e9));
  return fmt::format("{} h {:02} min", whole / 60, whole % 60);
}

ProgressLine::ProgressLine(std::string unit)
    : unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressLine::show(const eval::Progress& progress) {
  show(fmt::format("document {}", progress.document), progress.done, progress.total,
       progress.done_by_process);
}

void ProgressLine::show(const std::string& what,
                        int64_t done,
                        int64_t total,
                        int64_t done_by_process) {
  sweep::tell_owner(done_by_process);
  const Clock::time_point now = Clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10)) &&
      !(terminal_ && done == total))
    return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = static_cast<double>(done_by_process) / std::max(seconds, 1e-9);
  const double left = static_cast<double>(total - done) / std::max(speed, 1e-9);
  cli::print(stderr, "{}{}: {} of {} {}, {:.0f} tokens/s, {} left{}", terminal_ ? "\r" : "", what,
             done, total, unit_, speed, duration_text(left), terminal_ ? "   " : "\n");
  std::fflush(stderr);
}

void ProgressLine::end() const {
  if (terminal_ && shown_)
    cli::print(stderr, "\n");
}

}  // namespace stuffed::cli
