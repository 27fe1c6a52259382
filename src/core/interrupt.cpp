#include "stuffed/core/interrupt.h"

#include <csignal>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {
// A signal handler can reach nothing that is not global, and write nothing but this type.
volatile std::sig_atomic_t signal_seen = 0;

void remember(int signal) {
  signal_seen = signal;
}
}  // namespace

void catch_signals() {
  struct sigaction action = {};
  action.sa_handler = remember;
  action.sa_flags =
      SA_RESTART | static_cast<int>(SA_RESETHAND);  // once: the second of its kind acts as usual
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1})
    sigaction(signal, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit: write() then fails, and we can say so
}

bool interrupted() {
  return signal_seen != 0;
}

void stop_if_interrupted() {
  check(
      !interrupted(), Error::Kind::Interrupted,
      "stopped by signal {}; what was measured so far is kept: run the same command again to go on",
      static_cast<int>(signal_seen));
}

}  // namespace stuffed
