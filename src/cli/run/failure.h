// What went wrong, as an exit code and one message.
#pragma once
#include <exception>
#include <string>

namespace stuffed::cli {

struct Failure {
  int exit_code = 0;
  std::string message;
};

/// Of LibTorch's errors without their backtrace. What to try when memory ran out Invocation::run()
/// adds, which knows what was run.
Failure failure_of(const std::exception& error);

}  // namespace stuffed::cli
