// Connections on which nothing is said while all goes well: they tell at once, wherever a rank is in
// its work, that another one died or failed, and see to it that one rank alone reports that.
#pragma once
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "src/train/distributed/socket.h"

namespace stuffed::train {

class Lifeline {
 public:
  /// Watches, on a thread of its own, until goodbye(). If another rank is lost or failed it ends the
  /// process (_exit) in the middle of whatever it does, as SIGKILL would: a rank may be waiting for
  /// ever, in a library of the GPU's too. Rank 0, or rank 1 where that is the one lost, says why.
  /// `peers`: on rank 0 the connections to ranks 1, 2, ..., else the one to rank 0.
  Lifeline(int rank, int size, std::vector<Socket> peers);
  ~Lifeline();

  /// All ranks are done: an end is no death any more.
  void goodbye();
  /// See Ranks::fail.
  void fail(int exit_code, const std::string& message);

 private:
  void watch();
  bool hear(size_t peer);
  void end_all(int exit_code, const std::string& message);
  void stop_watching();

  int rank_, size_;
  std::vector<Socket> peers_;
  Socket wake_, woken_;                 // a pair: to wake the thread, and where it hears that
  std::atomic<bool> reported_ = false;  // of rank 0: somebody reports already
  std::atomic<bool> parted_ = false;    // nothing is watched any more
  std::thread watcher_;
};

/// Tells a rank that has met rank 0 to end in silence.
void end_quietly(const Socket& lifeline, int exit_code);

}  // namespace stuffed::train
