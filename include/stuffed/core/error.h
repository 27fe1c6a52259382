// The one exception type. Library code throws it and never prints or exits; main() catches it once.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace stuffed {

class Error : public std::runtime_error {
 public:
  /// What went wrong, from the user's point of view. The value is the process's exit code.
  enum class Kind {
    Disagreement = 1,  // a comparison, a verification or --fail-above failed
    Usage = 2,         // flags, config keys, values out of range
    Input = 3,         // an input file is missing, damaged, foreign or unsupported
    Unsupported = 4,   // this build or this device cannot
    Memory = 5,        // out of memory
    NonFinite = 6,     // --fail-nonfinite was given and a non-finite number was seen
    Output = 7,        // an output cannot be written
    Internal = 70,     // a bug in stuffed
    Interrupted = 75,  // stopped by a signal; the same command resumes
  };

  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const noexcept { return kind_; }
  int exit_code() const noexcept { return static_cast<int>(kind_); }

 private:
  Kind kind_;
};

/// Throws Error{kind} with a formatted message. A message says what was found, what was expected,
/// where, and what to try.
template <class... Args>
[[noreturn]] void fail(Error::Kind kind, fmt::format_string<Args...> message, Args&&... args) {
  throw Error(kind, fmt::format(message, std::forward<Args>(args)...));
}

/// fail() unless `condition` holds. The arguments are formatted only on failure.
template <class... Args>
void check(bool condition, Error::Kind kind, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(kind, fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace stuffed
