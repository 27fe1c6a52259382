// Parse, run, and turn whatever went wrong into one line on stderr and an exit code.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

#include "src/cli/app.h"
#include "src/cli/print.h"
#include "src/cli/run/failure.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"

namespace {

using stuffed::Error;

/// A descriptor that was closed must not become an output's, which messages would then be written
/// into. Returns whether standard output was: whoever closed it wants no table, but results that
/// are to go there (-o -) cannot be written.
bool fill_closed_descriptors() {
  const bool no_output = ::fcntl(STDOUT_FILENO, F_GETFD) < 0;
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(descriptor, F_GETFD) < 0)  // the lowest that is free is this one
      static_cast<void>(::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  return no_output;
}

/// A mapped file that is cut short while it is read leaves nothing to read on from: say so, where
/// the default action says nothing.
void on_bus_error(int signal, siginfo_t* info, void*) {
  if (info->si_code != BUS_ADRERR) {
    std::signal(signal, SIG_DFL);  // and the instruction is tried once more
    return;
  }
  constexpr std::string_view kMessage =
      "stuffed: a file was cut short while it was read (a model, tokens, a state); put it back and "
      "run the same command again\n";
  [[maybe_unused]] const ssize_t said = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  ::_exit(static_cast<int>(Error::Kind::Input));
}

void set_signals() {
  std::signal(SIGXFSZ, SIG_IGN);  // writing then fails, and whoever writes says what
  std::signal(SIGPIPE, SIG_IGN);
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  // LibTorch then asks for large tensors in huge pages: a pass makes and drops gigabytes of them,
  // and taking those from the system 4 KB at a time cost a twelfth of it.
  setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
  const bool no_output = fill_closed_descriptors();
  set_signals();
  stuffed::cuda_library();  // before anyone asks LibTorch for GPUs
  try {
    stuffed::cli::run(argc, argv);
    const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
    stuffed::check(written || no_output, Error::Kind::Output,
                   "standard output could not be written");
    return 0;
  } catch (const std::exception& error) {
    const stuffed::cli::Failure failure = stuffed::cli::failure_of(error);
    if (!failure.message.empty())  // else another process of the same run says it
      stuffed::cli::print(stderr, "stuffed: {}\n", failure.message);
    return failure.exit_code;
  }
}
