// A worker as its owner sees it: a process, and lines of JSON to and from it.
#pragma once
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::sweep {

class Worker {
 public:
  /// `gpu` is its CUDA_VISIBLE_DEVICES; empty: as here.
  /// Errors  Output if it cannot be started
  Worker(const std::vector<std::string>& program, const std::string& gpu);
  ~Worker();  // tells it to stop, and waits
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  int descriptor() const { return from_; }  // of what it says, for poll()
  void send(const io::json& line) const;
  /// Reads what there is without waiting; false once the worker has closed its end.
  bool read();
  /// The next whole line that was read.
  std::optional<io::json> next();
  /// It finishes its segment, then ends.
  void stop();
  /// Waits for its end. How it ended, for people: "was killed by SIGKILL".
  std::string wait();
  bool was_killed() const { return was_killed_; }  // by SIGKILL: from outside, or for its memory

 private:
  pid_t process_ = -1;
  int to_ = -1, from_ = -1;
  std::string pending_;
  bool was_killed_ = false;
};

}  // namespace stuffed::sweep
