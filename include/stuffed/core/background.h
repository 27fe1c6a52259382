// One function on a thread of its own, beside what needs its result only later.
#pragma once
#include <functional>
#include <future>
#include <stop_token>
#include <thread>

#include "stuffed/core/interrupt.h"

namespace stuffed {

template <class T>
class Background {
 public:
  /// Begins at once. What `work` refers to must outlive the object.
  explicit Background(std::function<T()> work)
      : work_(std::move(work)), result_(work_.get_future()), thread_([this](std::stop_token stop) {
          stop_thread_by(std::move(stop));
          work_();
        }) {}
  /// If the result is not wanted any more, stop_if_interrupted() ends the work.
  ~Background() = default;
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// Waits for the result, once. Throws what the work throws.
  T get() { return result_.get(); }

 private:
  std::packaged_task<T()> work_;
  std::future<T> result_;
  std::jthread thread_;
};

}  // namespace stuffed
