#include "src/cli/sweep/progress.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <unistd.h>

#include "src/cli/duration.h"
#include "src/cli/print.h"

namespace stuffed::cli {

namespace {

/// From what a cell is nearest to outwards; the last is everything.
std::array<std::string, 3> keys_of(const sweep::Cell& cell) {
  return {cell.command + "\n" + cell.model_key(), cell.command, ""};
}

/// https://no-color.org: set, and not empty.
bool colours_wanted() {
  const char* const no = std::getenv("NO_COLOR");
  return no == nullptr || *no == '\0';
}

}  // namespace

void Rates::add(const sweep::Cell& cell, double work, double seconds) {
  if (work <= 0)
    return;
  for (const std::string& key : keys_of(cell)) {
    sums_[key].work += work;
    sums_[key].seconds += seconds;
  }
}

std::optional<double> Rates::seconds(const sweep::Cell& cell, double work) const {
  for (const std::string& key : keys_of(cell))
    if (const auto found = sums_.find(key); found != sums_.end())
      return work * found->second.seconds / found->second.work;
  return {};
}

bool Rates::knows(const sweep::Cell& cell) const {
  return sums_.contains(cell.command);
}

SweepProgress::SweepProgress(std::vector<PlannedWork> cells,
                             size_t workers,
                             size_t done_before,
                             Rates rates)
    : cells_(std::move(cells)),
      ended_(cells_.size()),
      rates_(std::move(rates)),
      workers_(workers),
      done_before_(done_before),
      terminal_(isatty(STDERR_FILENO) == 1),
      colour_(terminal_ && colours_wanted()) {
  // Cells that do not say count as the mean of those that do.
  int64_t known = 0, sum = 0;
  for (const PlannedWork& work : cells_) {
    known += work.tokens > 0;
    sum += work.tokens;
  }
  for (PlannedWork& work : cells_)
    work.tokens = work.tokens > 0 ? work.tokens : known > 0 ? sum / known : 1;
}

void SweepProgress::on_start(size_t job) {
  running_[job] = {.tokens = 0, .since = Clock::now()};
}

void SweepProgress::on_progress(size_t job, int64_t tokens) {
  running_[job].tokens = tokens;
}

void SweepProgress::on_end(size_t job, const sweep::Outcome& outcome) {
  running_.erase(job);
  ended_[job] = true;
  const bool failed = outcome.exit_code != 0;
  failed_ += failed;
  if (!failed && outcome.is_whole)
    rates_.add(cells_[job].cell, static_cast<double>(cells_[job].tokens), outcome.seconds);
  const std::string what =
      outcome.is_elsewhere ? "is run by another process"
      : failed ? fmt::format("FAILED (exit code {}): {}", outcome.exit_code, outcome.error)
               : "done in " + duration_text(outcome.seconds);
  cli::print(stderr, "{}{}{}: {}{}\n", terminal_ ? "\r\033[K" : "",
             failed && colour_ ? "\033[31m" : "", cells_[job].cell.name, what,
             failed && colour_ ? "\033[0m" : "");
}

double SweepProgress::seconds_left() const {
  Rates rates = rates_;
  for (const auto& [job, running] : running_)
    if (running.tokens > 0)
      rates.add(cells_[job].cell, static_cast<double>(running.tokens),
                std::chrono::duration<double>(Clock::now() - running.since).count());
  double left = 0;
  size_t cells = 0;
  for (size_t job = 0; job < cells_.size(); ++job) {
    if (ended_[job])
      continue;
    const auto found = running_.find(job);
    const int64_t fed = found == running_.end() ? 0 : found->second.tokens;
    const auto seconds = rates.seconds(
        cells_[job].cell, static_cast<double>(std::max<int64_t>(0, cells_[job].tokens - fed)));
    if (!seconds)
      return -1;
    left += *seconds;
    ++cells;
  }
  return left / static_cast<double>(std::max<size_t>(1, std::min(workers_, cells)));
}

std::string SweepProgress::text() const {
  std::string running;
  for (const auto& [job, unused] : running_)
    running += (running.empty() ? "; running " : ", ") + cells_[job].cell.name;
  constexpr size_t kMost = 80;
  if (running.size() > kMost)
    running.replace(kMost, running.npos, "...");
  const double left = seconds_left();
  const auto ended = static_cast<size_t>(std::ranges::count(ended_, true));
  return fmt::format("sweep: {} of {} cells done{}{}; {}", done_before_ + ended - failed_,
                     done_before_ + cells_.size(),
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
