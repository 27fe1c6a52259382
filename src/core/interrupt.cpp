#include "stuffed/core/interrupt.h"

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>
#include <unistd.h>
#include <utility>

#include "stuffed/core/error.h"
#include "stuffed/core/stop.h"

namespace stuffed {

namespace {

using Clock = std::chrono::steady_clock;

// Written by the thread that takes the signals, read by those that compute.
std::atomic<int> first_signal = 0;
std::atomic<bool> is_quiet = false;
std::atomic<Clock::rep> first_signal_at = 0;

thread_local std::stop_token stop_of_thread;

constexpr std::array kCaught = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

std::string name_of(int signal) {
  const char* const name = sigabbrev_np(signal);
  return name ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

/// Whoever pressed Ctrl-C wants to know that it was heard. Where standard error cannot be written,
/// nobody does.
void announce(int signal) {
  const std::string line =
      signal == SIGINT
          ? std::string("\nstuffed: stopping after this segment; press again to stop now\n")
          : fmt::format("stuffed: {}: stopping after this segment; send it again to stop now\n",
                        name_of(signal));
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
}

void act_by_default(int signal) {
  std::signal(signal, SIG_DFL);
  sigset_t only = {};
  sigemptyset(&only);
  sigaddset(&only, signal);
  ::kill(::getpid(), signal);
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);  // delivered here, before this returns
}

[[noreturn]] void take_signals(const sigset_t& caught) {
  std::array<bool, NSIG> seen = {};
  for (;;) {
    int signal = 0;
    if (sigwait(&caught, &signal) != 0)
      continue;
    if (seen.at(static_cast<size_t>(signal)))
      act_by_default(signal);
    seen.at(static_cast<size_t>(signal)) = true;
    if (first_signal == 0) {
      first_signal_at = Clock::now().time_since_epoch().count();
      first_signal = signal;
    }
    if (!is_quiet)
      announce(signal);
  }
}

bool is_ignored(int signal) {
  struct sigaction action = {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

void catch_signals() {
  sigset_t caught = {};
  sigemptyset(&caught);
  for (const int signal : kCaught)
    if (!is_ignored(signal))
      sigaddset(&caught, signal);
  pthread_sigmask(SIG_BLOCK, &caught, nullptr);
  std::thread(take_signals, caught).detach();
  std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit: write() then fails, and we can say so
}

void take_signals_quietly() {
  is_quiet = true;
}

bool interrupted() {
  return first_signal != 0;
}

void ask_to_stop() {
  if (interrupted())
    return;
  first_signal_at = Clock::now().time_since_epoch().count();
  first_signal = SIGTERM;
}

std::string signal_name() {
  return interrupted() ? name_of(first_signal) : std::string();
}

void stop_thread_by(std::stop_token stop) {
  stop_of_thread = std::move(stop);
}

void stop_if_interrupted() {
  check(!stop_of_thread.stop_requested(), Error::Kind::Interrupted, "stopped: not wanted any more");
  check(!interrupted(), Error::Kind::Interrupted, "stopped by {}; run the same command again",
        signal_name());
}

void leave_if_overdue() {
  if (!interrupted())
    return;
  const Clock::duration waited = Clock::now().time_since_epoch() - Clock::duration(first_signal_at);
  check(std::chrono::duration<double>(waited).count() < kGraceSeconds, Error::Kind::Interrupted,
        "stopped by {}", signal_name());
}

}  // namespace stuffed
