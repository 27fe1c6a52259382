#include "src/cli/sweep/progress.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <unistd.h>

#include "src/cli/duration.h"
#include "src/cli/print.h"

namespace stuffed::cli {

namespace {

/// https://no-color.org: set, and not empty.
bool colours_wanted() {
  const char* const no = std::getenv("NO_COLOR");
  return no == nullptr || *no == '\0';
}

}  // namespace

SweepProgress::SweepProgress(const std::vector<sweep::Job>& jobs,
                             std::vector<int64_t> tokens,
                             size_t done_before)
    : jobs_(jobs),
      tokens_(std::move(tokens)),
      done_before_(done_before),
      terminal_(isatty(STDERR_FILENO) == 1),
      colour_(terminal_ && colours_wanted()) {
  // Cells that do not say count as the mean of those that do.
  const auto known = std::ranges::count_if(tokens_, [](int64_t n) { return n > 0; });
  const int64_t sum = std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0});
  for (int64_t& n : tokens_)
    n = n > 0 ? n : known > 0 ? sum / known : 1;
}

double SweepProgress::weight(size_t job) const {
  return static_cast<double>(tokens_[job]);
}

void SweepProgress::on_start(size_t job) {
  running_[job] = 0;
}

void SweepProgress::on_progress(size_t job, int64_t tokens) {
  running_[job] = tokens;
}

void SweepProgress::on_end(size_t job, const sweep::Outcome& outcome) {
  running_.erase(job);
  ++ended_;
  weight_done_ += weight(job);
  const bool failed = outcome.exit_code != 0;
  failed_ += failed;
  const std::string what =
      outcome.is_elsewhere ? "is run by another process"
      : failed ? fmt::format("FAILED (exit code {}): {}", outcome.exit_code, outcome.error)
               : "done in " + duration_text(outcome.seconds);
  cli::print(stderr, "{}{}{}: {}{}\n", terminal_ ? "\r\033[K" : "",
             failed && colour_ ? "\033[31m" : "", jobs_[job].name, what,
             failed && colour_ ? "\033[0m" : "");
}

double SweepProgress::seconds_left() const {
  double done = weight_done_, total = 0;
  for (const auto& [job, tokens] : running_)
    done += std::min(static_cast<double>(tokens), weight(job));
  for (size_t job = 0; job < tokens_.size(); ++job)
    total += weight(job);
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  return done > 0 ? seconds * (total - done) / done : -1;
}

std::string SweepProgress::text() const {
  std::string running;
  for (const auto& [job, tokens] : running_)
    running += (running.empty() ? "; running " : ", ") + jobs_[job].name;
  constexpr size_t kMost = 80;
  if (running.size() > kMost)
    running.replace(kMost, running.npos, "...");
  const double left = seconds_left();
  return fmt::format("sweep: {} of {} cells done{}{}; {}", done_before_ + ended_ - failed_,
                     done_before_ + jobs_.size(),
                     failed_ > 0 ? fmt::format(", {} failed", failed_) : "", running,
                     left >= 0 ? duration_text(left) + " left" : "time left unknown");
}

void SweepProgress::show() {
  const auto now = Clock::now();
  if (now - shown_ < (terminal_ ? std::chrono::milliseconds(500) : std::chrono::seconds(10)))
    return;
  shown_ = now;
  cli::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", text(), terminal_ ? "" : "\n");
  std::fflush(stderr);
}

void SweepProgress::finish() {
  if (terminal_)
    cli::print(stderr, "\r\033[K");
}

}  // namespace stuffed::cli
