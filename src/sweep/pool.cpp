#include "stuffed/sweep/pool.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <poll.h>
#include <set>
#include <utility>

#include "src/sweep/worker.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::sweep {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTickMs = 100;
constexpr double kPatienceSeconds =
    30;  // for a cell that another process runs, once all else is done
// Deaths of workers on one cell that has not got on in between. A crash comes again; a kill may be
// chance.
constexpr int kMostCrashes = 2, kMostKills = 8;

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

/// How far a cell's files have come: they grow with every record and saved state.
uintmax_t size_of_results(const Job& job) {
  uintmax_t bytes = 0;
  for (const fs::path& path : {job.results, fs::path(job.results).concat(".state")}) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    bytes += error ? 0 : size;
  }
  return bytes;
}

/// What is known of a job that is not at its end.
struct Attempt {
  int crashes = 0, kills = 0;  // since it last got on
  uintmax_t bytes = 0;
  Clock::time_point not_before = {};  // it is not tried again before that
  bool waits = false;                 // for another process
  double seconds = 0;                 // of earlier attempts
  bool is_begun = false, is_whole = false;
};

struct Slot {
  std::unique_ptr<Worker> worker;
  std::string gpu, model_key;
  std::optional<size_t> job;
  Clock::time_point since = {};
  bool is_spent = false;  // the worker ends, or is to end, after the cell it had
};

class PoolRun {
 public:
  PoolRun(const std::vector<Job>& jobs, const PoolOptions& options, const PoolWatch& watch)
      : jobs_(jobs),
        options_(options),
        watch_(watch),
        attempts_(jobs.size()),
        slots_(options.workers) {
    for (size_t i = 0; i < jobs.size(); ++i)
      waiting_.push_back(i);
    for (size_t i = 0; i < slots_.size() && !options.gpus.empty(); ++i)
      slots_[i].gpu = options.gpus[i % options.gpus.size()];
  }

  void run() {
    while (!is_over()) {
      if (interrupted() && !stopping_)
        stop_all();
      if (!stopping_)
        give_out();
      listen();
      watch_.on_tick();
    }
    slots_.clear();
    stop_if_interrupted();
  }

 private:
  bool is_over() const {
    const bool idle =
        std::ranges::none_of(slots_, [](const Slot& slot) { return slot.job.has_value(); });
    return idle && (stopping_ || waiting_.empty());
  }

  void stop_all() {
    stopping_ = true;
    for (Slot& slot : slots_)
      if (slot.worker)
        slot.worker->stop();
  }

  void give_out() {
    for (Slot& slot : slots_) {
      if (slot.job)
        continue;
      if (const std::optional<size_t> job = choose(slot))
        start(slot, *job);
    }
    give_up_waiting();
  }

  /// The first cell whose model the worker holds, else the first whose model no other one does.
  std::optional<size_t> choose(const Slot& slot) {
    std::set<std::string> held;
    for (const Slot& other : slots_)
      if (&other != &slot && other.job)
        held.insert(other.model_key);
    std::optional<size_t> best;
    int best_rank = 3;
    for (const size_t job : waiting_) {
      if (Clock::now() < attempts_[job].not_before)
        continue;
      const std::string& key = jobs_[job].model_key;
      const int rank = slot.worker && key == slot.model_key ? 0 : held.contains(key) ? 2 : 1;
      if (rank < best_rank) {
        best = job;
        best_rank = rank;
      }
    }
    return best;
  }

  void start(Slot& slot, size_t job) {
    if (!slot.worker)
      slot.worker = std::make_unique<Worker>(options_.program, slot.gpu);
    std::erase(waiting_, job);
    slot.job = job;
    slot.model_key = jobs_[job].model_key;
    slot.since = Clock::now();
    Attempt& attempt = attempts_[job];
    attempt.bytes = size_of_results(jobs_[job]);
    attempt.is_whole = attempt.is_begun ? attempt.is_whole : attempt.bytes == 0;
    attempt.is_begun = true;
    watch_.on_start(job);
    slot.worker->send({{"arguments", jobs_[job].arguments}, {"log", jobs_[job].log.string()}});
  }

  /// Waits a tick for what workers say.
  void listen() {
    std::vector<pollfd> descriptors;
    for (const Slot& slot : slots_)
      descriptors.push_back(
          {.fd = slot.worker ? slot.worker->descriptor() : -1, .events = POLLIN, .revents = 0});
    if (::poll(descriptors.data(), descriptors.size(), kTickMs) <= 0)
      return;
    for (size_t i = 0; i < slots_.size(); ++i)
      if (descriptors[i].revents != 0)
        hear(slots_[i]);
  }

  void hear(Slot& slot) {
    const bool goes_on = slot.worker->read();
    while (const std::optional<io::json> line = slot.worker->next()) {
      if (!slot.job)
        continue;
      if (line->contains("tokens"))
        watch_.on_progress(*slot.job, line->value("tokens", int64_t{0}));
      else if (line->contains("exit_code"))
        take_result(slot, *line);
    }
    if (!goes_on)
      bury(slot);
    else if (std::exchange(slot.is_spent, false))
      slot.worker.reset();
  }

  void take_result(Slot& slot, const io::json& line) {
    const size_t job = *slot.job;
    slot.job.reset();
    attempts_[job].seconds += seconds_since(slot.since);
    const int code = line.value("exit_code", 70);
    slot.is_spent =
        line.value("start_anew", false) || code == static_cast<int>(Error::Kind::Interrupted);
    if (line.value("in_use", false)) {
      attempts_[job].waits = true;
      try_again(job, 1);
    } else if (code == static_cast<int>(Error::Kind::Interrupted)) {
      try_again(job, 0);  // somebody sent the worker a signal; its successor goes on
    } else {
      end(job, {.exit_code = code, .error = line.value("error", "")});
    }
  }

  void try_again(size_t job, double after_seconds) {
    attempts_[job].not_before =
        Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(1000 * after_seconds));
    waiting_.push_front(job);
    if (attempts_[job].waits)
      std::rotate(waiting_.begin(), waiting_.begin() + 1, waiting_.end());
  }

  void end(size_t job, Outcome outcome) {
    outcome.seconds = attempts_[job].seconds;
    outcome.is_whole = attempts_[job].is_whole;
    watch_.on_end(job, outcome);
    last_end_ = Clock::now();
  }

  /// The worker is gone.
  void bury(Slot& slot) {
    const std::string how = slot.worker->wait();
    const bool killed = slot.worker->was_killed();
    slot.worker.reset();
    slot.is_spent = false;
    if (!slot.job)
      return;
    const size_t job = *slot.job;
    slot.job.reset();
    Attempt& attempt = attempts_[job];
    attempt.seconds += seconds_since(slot.since);
    if (size_of_results(jobs_[job]) != attempt.bytes)
      attempt.crashes = attempt.kills = 0;
    ++(killed ? attempt.kills : attempt.crashes);
    if (stopping_)
      return;
    if (attempt.crashes < kMostCrashes && attempt.kills < kMostKills)
      return try_again(job, 0);
    end(job, {.exit_code = static_cast<int>(Error::Kind::Internal),
              .error = fmt::format("its process {} again and again{}; see {}", how,
                                   killed ? " (is there enough memory?)" : "",
                                   jobs_[job].log.string())});
  }

  /// Cells that another process runs, when there is nothing else to do.
  void give_up_waiting() {
    const bool idle =
        std::ranges::none_of(slots_, [](const Slot& slot) { return slot.job.has_value(); });
    const bool all_wait =
        std::ranges::all_of(waiting_, [&](size_t job) { return attempts_[job].waits; });
    if (!idle || !all_wait || seconds_since(last_end_) < kPatienceSeconds)
      return;
    for (const size_t job : std::exchange(waiting_, {}))
      end(job, {.exit_code = 0, .error = {}, .is_elsewhere = true});
  }

  const std::vector<Job>& jobs_;
  const PoolOptions& options_;
  const PoolWatch& watch_;
  std::vector<Attempt> attempts_;
  std::vector<Slot> slots_;
  std::deque<size_t> waiting_;
  Clock::time_point last_end_ = Clock::now();
  bool stopping_ = false;
};

}  // namespace

void run_jobs(const std::vector<Job>& jobs, const PoolOptions& options, const PoolWatch& watch) {
  PoolRun(jobs, options, watch).run();
}

std::vector<std::string> visible_gpus(int64_t visible) {
  std::vector<std::string> gpus;
  const char* const variable = std::getenv("CUDA_VISIBLE_DEVICES");
  if (variable == nullptr) {
    for (int64_t i = 0; i < visible; ++i)
      gpus.push_back(fmt::format("{}", i));
    return gpus;
  }
  std::string_view rest = variable;
  while (!rest.empty()) {
    const size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view gpu = rest.substr(0, comma);
    if (gpu.empty() || gpu.front() == '-')
      break;  // as CUDA does: what follows is not visible
    gpus.emplace_back(gpu);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return gpus;
}

}  // namespace stuffed::sweep
