#include "src/train/distributed/rendezvous.h"

#include <algorithm>
#include <random>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "src/train/distributed/lifeline.h"
#include "stuffed/core/all_reduce.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::train {

namespace {

constexpr int kSilent = 3;  // LibTorch's level that logs nothing but its own end

/// What goes wrong is said once, by an error; LibTorch's sockets would log it besides, with a
/// backtrace, at each try.
class QuietSockets {
 public:
  QuietSockets() : before_(FLAGS_caffe2_log_level) { FLAGS_caffe2_log_level = kSilent; }
  ~QuietSockets() { FLAGS_caffe2_log_level = before_; }
  QuietSockets(const QuietSockets&) = delete;
  QuietSockets& operator=(const QuietSockets&) = delete;

 private:
  int before_;
};

constexpr uint32_t kData = 0, kLifeline = 1, kChannels = 2;

/// The first words on a connection to rank 0.
struct Hello {
  uint64_t token = 0;  // of the run: others that knock at the port do not know it
  uint32_t rank = 0, size = 0;
  uint32_t channel = 0, unused = 0;
};

/// Where rank 0 is to be found, as it stands in the store.
struct Meeting {
  std::string host;  // empty: where the store is
  int port = 0;
  uint64_t token = 0;
};

std::chrono::milliseconds until(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return std::max(left, std::chrono::milliseconds(1));
}

std::string place_of(const Launch& launch) {
  return fmt::format("{}:{}", launch.address, launch.port);
}

[[noreturn]] void fail_to_meet(const Launch& launch, double timeout) {
  fail(kRankLost,
       "--distributed: rank {} of {} did not find rank 0 at {} (MASTER_ADDR:MASTER_PORT) within {} "
       "s; start all ranks, or give them longer (--rendezvous-timeout)",
       launch.rank, launch.size, place_of(launch), timeout);
}

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch,
                                           Deadline deadline,
                                           double timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(launch.port);
  options.isServer = launch.rank == 0 && !launch.is_served;
  options.waitWorkers = false;
  options.timeout = until(deadline);
  try {
    return c10::make_intrusive<c10d::TCPStore>(launch.address, options);
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    check(text.find("EADDRINUSE") == text.npos, Error::Kind::Usage,
          "--distributed: port {} is in use on this host; set MASTER_PORT to another, the same for "
          "all ranks (torchrun: --master-port)",
          launch.port);
    if (options.isServer)
      fail(kRankLost, "--distributed: rank 0 cannot serve {}: {}", place_of(launch),
           text.substr(0, text.find('\n')));
    fail_to_meet(launch, timeout);
  }
}

std::string key_of(const Launch& launch) {
  return fmt::format("stuffed/{}/rank 0", launch.attempt);
}

uint64_t random_token() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

void publish(c10d::Store& store, const Launch& launch, const Meeting& meeting) {
  store.set(key_of(launch), fmt::format("{} {} {}", meeting.port, meeting.token, meeting.host));
}

Meeting look_up(c10d::Store& store, const Launch& launch, Deadline deadline, double timeout) {
  std::string text;
  try {
    store.wait({key_of(launch)}, until(deadline));
    text = store.get_to_str(key_of(launch));
  } catch (const c10::Error&) {
    fail_to_meet(launch, timeout);
  }
  Meeting meeting;
  size_t at = 0;
  meeting.port = std::stoi(text, &at);
  text.erase(0, at + 1);
  meeting.token = std::stoull(text, &at);
  meeting.host = text.substr(at + 1);
  return meeting;
}

/// Puts a connection where it belongs; false if it is none of ours.
/// Errors  Usage if it is of a rank that is there already, or of a run of another size
bool seat(Socket socket, const Launch& launch, uint64_t token, Met& met) {
  Hello hello;
  if (!socket.is_open() || !socket.receive_within(1, &hello, sizeof hello) ||
      hello.token != token || hello.channel >= kChannels)
    return false;
  if (hello.size != static_cast<uint32_t>(launch.size)) {
    end_quietly(socket, static_cast<int>(Error::Kind::Usage));
    fail(Error::Kind::Usage,
         "--distributed: rank {} was started as one of {}, rank 0 as one of {} (WORLD_SIZE)",
         hello.rank, hello.size, launch.size);
  }
  if (hello.rank < 1 || hello.rank >= hello.size)
    return false;
  Socket& place =
      (hello.channel == kData ? met.data : met.lifelines)[static_cast<size_t>(hello.rank) - 1];
  check(!place.is_open(), Error::Kind::Usage,
        "--distributed: two processes were started as rank {} (RANK)", hello.rank);
  place = std::move(socket);
  return true;
}

/// Ranks that are not there yet.
std::vector<int> missing(const Met& met) {
  std::vector<int> ranks;
  for (size_t i = 0; i < met.data.size(); ++i)
    if (!met.data[i].is_open() || !met.lifelines[i].is_open())
      ranks.push_back(static_cast<int>(i) + 1);
  return ranks;
}

void wait_for_all(const Launch& launch,
                  const Listener& listener,
                  uint64_t token,
                  Deadline deadline,
                  double timeout,
                  Met& met) {
  met.data.resize(static_cast<size_t>(launch.size) - 1);
  met.lifelines.resize(met.data.size());
  while (!missing(met).empty()) {
    stop_if_interrupted();
    check(std::chrono::steady_clock::now() < deadline, kRankLost,
          "--distributed: of {} ranks these did not come within {} s: {}; start all ranks, or give "
          "them longer (--rendezvous-timeout)",
          launch.size, timeout, fmt::join(missing(met), ", "));
    seat(accept_until(listener.socket, deadline), launch, token, met);
  }
}

void await_others(const Launch& launch, Deadline deadline, double timeout, Met& met) {
  const Listener listener = listen_anywhere();
  const Meeting meeting = {
      .host = own_address_towards(launch.address), .port = listener.port, .token = random_token()};
  publish(*met.store, launch, meeting);
  try {
    wait_for_all(launch, listener, meeting.token, deadline, timeout, met);
  } catch (const Error& error) {
    for (const Socket& lifeline : met.lifelines)
      end_quietly(lifeline, error.exit_code());
    throw;
  }
}

void go_to_first(const Launch& launch, Deadline deadline, double timeout, Met& met) {
  const Meeting meeting = look_up(*met.store, launch, deadline, timeout);
  const std::string& host = meeting.host.empty() ? launch.address : meeting.host;
  for (const uint32_t channel : {kLifeline, kData}) {  // that which a refusal comes on first
    Socket socket = connect_until(host, meeting.port, deadline);
    const Hello hello = {.token = meeting.token,
                         .rank = static_cast<uint32_t>(launch.rank),
                         .size = static_cast<uint32_t>(launch.size),
                         .channel = channel,
                         .unused = 0};
    if (!socket.is_open() || !socket.send(&hello, sizeof hello))
      fail_to_meet(launch, timeout);
    (channel == kData ? met.data : met.lifelines).push_back(std::move(socket));
  }
}

}  // namespace

Met meet(const Launch& launch, double timeout) {
  const QuietSockets quiet;
  const Deadline deadline = std::chrono::steady_clock::now() +
                            std::chrono::milliseconds(static_cast<int64_t>(timeout * 1000));
  Met met;
  met.store = open_store(launch, deadline, timeout);
  if (launch.rank == 0)
    await_others(launch, deadline, timeout, met);
  else
    go_to_first(launch, deadline, timeout, met);
  return met;
}

}  // namespace stuffed::train
