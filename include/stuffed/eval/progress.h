// What an evaluation over documents tells whoever waits for it.
#pragma once
#include <cstdint>
#include <functional>

namespace stuffed::eval {

struct Progress {
  int64_t document = 0;         // index of the one being read, or of the first of several
  int64_t done = 0;             // tokens of it, as the task counts them
  int64_t total = 0;            // of it in all
  int64_t done_by_process = 0;  // all documents; what a journal held already does not count
};

using OnProgress = std::function<void(const Progress&)>;

}  // namespace stuffed::eval
