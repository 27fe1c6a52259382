#include "src/cli/progress_line.h"

#include <algorithm>
#include <cstdio>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "src/cli/print.h"

namespace stuffed::cli {

ProgressLine::ProgressLine(std::string unit)
    : unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressLine::show(const eval::Progress& progress) {
  const Clock::time_point now = Clock::now();
  const bool document_done = progress.done == progress.total;
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10)) &&
      !(terminal_ && document_done))
    return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = static_cast<double>(progress.done_by_process) / std::max(seconds, 1e-9);
  const double left = static_cast<double>(progress.total - progress.done) / std::max(speed, 1e-9);
  cli::print(stderr, "{}document {}: {} of {} {}, {:.0f} tokens/s, {:.0f} s left in it{}",
             terminal_ ? "\r" : "", progress.document, progress.done, progress.total, unit_, speed,
             left, terminal_ ? "   " : "\n");
  std::fflush(stderr);
}

void ProgressLine::end() const {
  if (terminal_ && shown_)
    cli::print(stderr, "\n");
}

}  // namespace stuffed::cli
