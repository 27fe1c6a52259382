// The worker's side of a pool.
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unistd.h>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/stop.h"
#include "stuffed/sweep/pool.h"
#include "stuffed/sweep/tell_owner.h"

namespace stuffed::sweep {

namespace {

/// Lines of a descriptor, read by a thread of its own: when it ends the owner is gone or wants an
/// end, whatever runs meanwhile.
class Inbox {
 public:
  explicit Inbox(int descriptor) : descriptor_(descriptor) {
    std::thread([this] { read(); }).detach();
  }

  /// Waits. Nothing at the end.
  std::optional<std::string> next() {
    std::unique_lock lock(mutex_);
    // wait() without a limit would need the C++ library of GCC 12, and nothing else here does.
    while (!changed_.wait_for(lock, std::chrono::hours(1),
                              [&] { return is_over_ || !lines_.empty(); })) {
    }
    if (is_over_)
      return {};
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    return line;
  }

 private:
  void read() {
    std::string text;
    char block[4096];
    for (;;) {
      const ssize_t n = ::read(descriptor_, block, sizeof block);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        break;
      text.append(block, static_cast<size_t>(n));
      for (size_t end; (end = text.find('\n')) != text.npos; text.erase(0, end + 1))
        put(text.substr(0, end));
    }
    ask_to_stop();
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }

  void put(std::string line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
    changed_.notify_all();
  }

  int descriptor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;
  bool is_over_ = false;
};

void say(int descriptor, const io::json& line) {
  const std::string text = line.dump(-1, ' ', false, io::json::error_handler_t::replace) + "\n";
  [[maybe_unused]] const ssize_t said = ::write(descriptor, text.data(), text.size());
}

/// What the cell prints goes to the end of its log.
void print_to(const std::string& path) {
  std::fflush(stdout);
  std::fflush(stderr);
  const int log = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  check(log >= 0, Error::Kind::Output, "{}: cannot be written: {}", path, std::strerror(errno));
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::close(log);
}

Served serve(const RunCell& run, const io::json& request) {
  try {
    print_to(request.at("log"));
  } catch (const Error& error) {
    return {.exit_code = error.exit_code(), .error = error.what()};
  }
  return run(request.at("arguments").get<std::vector<std::string>>());
}

}  // namespace

void serve_cells(const RunCell& run) {
  const int from = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3),
            to = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(nothing, STDIN_FILENO);
  ::dup2(nothing, STDOUT_FILENO);
  // Never destroyed: its thread may be waiting when the process ends.
  Inbox& inbox = *new Inbox(from);  // NOLINT
  ::setenv(kOwnerVariable, fmt::format("{}", to).c_str(), /*overwrite=*/1);
  while (const std::optional<std::string> line = inbox.next()) {
    const Served served = serve(run, io::parse_json(*line, "the sweep's request"));
    say(to, {{"exit_code", served.exit_code},
             {"error", served.error},
             {"in_use", served.in_use},
             {"start_anew", served.start_anew}});
    if (interrupted())
      break;
  }
}

void tell_owner(int64_t tokens) {
  const char* const descriptor = std::getenv(kOwnerVariable);
  if (descriptor == nullptr)
    return;
  using Clock = std::chrono::steady_clock;
  static thread_local Clock::time_point told = {};  // rate of messages, no result
  if (Clock::now() - told < std::chrono::milliseconds(200))
    return;
  told = Clock::now();
  say(std::atoi(descriptor), {{"tokens", tokens}});
}

}  // namespace stuffed::sweep
