#include "stuffed/io/documents_ahead.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include "stuffed/core/interrupt.h"

namespace stuffed::io {

namespace {

// wait() without a time limit is of a newer libstdc++ than the packages ask for.
constexpr std::chrono::hours kLong{1};

size_t bytes_of(const Document& document) {
  return sizeof(Document) + document.tokens.size() * sizeof(int32_t) +
         document.boundaries.size() * sizeof(Boundary);
}

}  // namespace

struct DocumentsAhead::Impl {
  TokenSource& source;
  size_t most_bytes;
  std::mutex mutex;
  std::condition_variable_any changed;
  // Under the mutex:
  std::deque<Document> ready;
  size_t ready_bytes = 0, largest = 0;
  bool is_awaited = false, is_over = false;
  std::exception_ptr error;
  std::jthread reader;  // the last: it uses the others

  Impl(TokenSource& from, size_t most) : source(from), most_bytes(most) {}
  void read_all(const std::stop_token& stop);
  bool wait_for_room(const std::stop_token& stop);
  bool read_one();
  void end(std::exception_ptr why);
};

/// False if no more is wanted.
bool DocumentsAhead::Impl::wait_for_room(const std::stop_token& stop) {
  std::unique_lock lock(mutex);
  const auto has_room = [&] { return is_awaited || ready_bytes + largest <= most_bytes; };
  while (!changed.wait_for(lock, stop, kLong, has_room) && !stop.stop_requested()) {
  }
  return !stop.stop_requested();
}

/// False at the end.
bool DocumentsAhead::Impl::read_one() {
  std::optional<Document> document = source.next();
  if (!document)
    return false;
  const size_t bytes = bytes_of(*document);
  const std::scoped_lock lock(mutex);
  ready.push_back(std::move(*document));
  ready_bytes += bytes;
  largest = std::max(largest, bytes);
  is_awaited = false;
  changed.notify_all();
  return true;
}

void DocumentsAhead::Impl::end(std::exception_ptr why) {
  const std::scoped_lock lock(mutex);
  error = std::move(why);
  is_over = true;
  changed.notify_all();
}

void DocumentsAhead::Impl::read_all(const std::stop_token& stop) {
  stop_thread_by(stop);
  try {
    while (wait_for_room(stop) && read_one()) {
    }
    end({});
  } catch (...) {
    end(std::current_exception());
  }
}

DocumentsAhead::DocumentsAhead(TokenSource& source, size_t most_bytes)
    : impl_(std::make_unique<Impl>(source, most_bytes)) {
  source.set_awaited(false);
  impl_->reader =
      std::jthread([impl = impl_.get()](const std::stop_token& stop) { impl->read_all(stop); });
}

DocumentsAhead::~DocumentsAhead() {
  impl_->reader.request_stop();
  impl_->reader.join();
  impl_->source.set_awaited(true);
}

std::optional<Document> DocumentsAhead::next() {
  std::unique_lock lock(impl_->mutex);
  if (impl_->ready.empty() && !impl_->is_over) {
    impl_->source.set_awaited(true);
    impl_->is_awaited = true;
    impl_->changed.notify_all();
    const auto has_come = [&] { return !impl_->ready.empty() || impl_->is_over; };
    while (!impl_->changed.wait_for(lock, kLong, has_come)) {
    }
    impl_->source.set_awaited(false);
  }
  if (impl_->ready.empty() && impl_->error)
    std::rethrow_exception(impl_->error);
  if (impl_->ready.empty())
    return {};
  Document document = std::move(impl_->ready.front());
  impl_->ready.pop_front();
  impl_->ready_bytes -= bytes_of(document);
  impl_->changed.notify_all();
  return document;
}

}  // namespace stuffed::io
