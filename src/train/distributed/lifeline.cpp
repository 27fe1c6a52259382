#include "src/train/distributed/lifeline.h"

#include <cstdlib>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fmt/format.h>

#include "src/train/distributed/star.h"
#include "stuffed/core/all_reduce.h"
#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr int kLostCode = static_cast<int>(kRankLost);
constexpr auto kLastWords = std::chrono::seconds(10);  // that rank 0 has, or a peer to say goodbye
constexpr auto kMoment = std::chrono::milliseconds(10);

// Words.
constexpr uint32_t kFailed = 1;  // to rank 0: this rank failed, with that message
constexpr uint32_t kEnd = 2;     // from rank 0: end with that code and say nothing
constexpr uint32_t kGoodbye = 3;

struct WordHead {
  uint32_t word = 0;
  int32_t exit_code = 0;
  uint64_t bytes = 0;  // of the text that follows
};

void say(const Socket& to, uint32_t word, int exit_code = 0, const std::string& text = {}) {
  const WordHead head = {.word = word, .exit_code = exit_code, .bytes = text.size()};
  if (to.is_open() && to.send(&head, sizeof head))  // whoever is gone cannot be told
    to.send(text.data(), text.size());
}

void write_message(const std::string& message) {
  const std::string line = fmt::format("stuffed: {}\n", message);
  [[maybe_unused]] const ssize_t said = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

void end_quietly(const Socket& lifeline, int exit_code) {
  say(lifeline, kEnd, exit_code);
}

Lifeline::Lifeline(int rank, int size, std::vector<Socket> peers)
    : rank_(rank), size_(size), peers_(std::move(peers)) {
  int pair[2] = {-1, -1};
  check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, Error::Kind::Internal,
        "no pair of sockets is to be had");
  wake_ = Socket(pair[0]);
  woken_ = Socket(pair[1]);
  watcher_ = std::thread([this] { watch(); });
}

Lifeline::~Lifeline() {
  stop_watching();
}

void Lifeline::stop_watching() {
  const char byte = 0;
  if (watcher_.joinable()) {
    wake_.send(&byte, sizeof byte);
    watcher_.join();
  }
}

void Lifeline::watch() {
  std::vector<pollfd> watched = {{.fd = woken_.descriptor(), .events = POLLIN, .revents = 0}};
  for (const Socket& peer : peers_)
    watched.push_back({.fd = peer.descriptor(), .events = POLLIN, .revents = 0});
  for (size_t left = peers_.size(); left > 0;) {
    if (::poll(watched.data(), watched.size(), -1) < 0)
      continue;
    if (watched[0].revents != 0)
      return;
    for (size_t i = 1; i < watched.size(); ++i)
      if (watched[i].revents != 0 && !hear(i - 1)) {
        watched[i].fd = -1;  // which poll passes over
        --left;
      }
  }
  parted_ = true;
}

/// What a peer has to say. False: it has nothing more to say.
bool Lifeline::hear(size_t peer) {
  const int theirs = rank_ == 0 ? static_cast<int>(peer) + 1 : 0;
  WordHead head;
  std::string text;
  bool is_there = peers_[peer].receive(&head, sizeof head);
  if (is_there) {
    text.resize(head.bytes);
    is_there = peers_[peer].receive(text.data(), text.size());
  }
  if (is_there && head.word == kGoodbye)
    return false;
  if (is_there && rank_ == 0)
    end_all(head.exit_code, fmt::format("rank {}: {}", theirs, text));
  else if (is_there)
    ::_exit(head.exit_code);
  else
    end_all(kLostCode, lost_rank_text(theirs, size_));
  return false;
}

/// From the thread that watches.
void Lifeline::end_all(int exit_code, const std::string& message) {
  if (reported_.exchange(true))
    return;  // the main thread ends the process
  if (rank_ <= 1)
    write_message(message);
  for (const Socket& peer : peers_)
    if (rank_ == 0)
      end_quietly(peer, exit_code);
  ::_exit(exit_code);
}

void Lifeline::fail(int exit_code, const std::string& message) {
  if (rank_ != 0)
    say(peers_[0], kFailed, exit_code, message);
  if (rank_ != 0 || reported_.exchange(true)) {
    std::this_thread::sleep_for(kLastWords);  // the thread that watches ends the process
    return;
  }
  for (const Socket& peer : peers_)
    end_quietly(peer, exit_code);
  stop_watching();
}

void Lifeline::goodbye() {
  reported_ = true;  // whoever ends from here on is done
  for (const Socket& peer : peers_)
    say(peer, kGoodbye);
  // A connection that is closed while words wait on it may take back what was sent last.
  const Deadline deadline = std::chrono::steady_clock::now() + kLastWords;
  while (!parted_ && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(kMoment);
  stop_watching();
}

}  // namespace stuffed::train
