// TCP connections that end with their owner.
#pragma once
#include <chrono>
#include <cstddef>
#include <string>

namespace stuffed::train {

using Deadline = std::chrono::steady_clock::time_point;

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  bool is_open() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }

  /// All bytes, or false: the other side is gone. `more`: what follows may go in the same packet.
  bool send(const void* data, size_t bytes, bool more = false) const;
  bool receive(void* data, size_t bytes) const;
  /// Likewise, but false also if they take longer than `seconds`.
  bool receive_within(int seconds, void* data, size_t bytes) const;

 private:
  int descriptor_ = -1;
};

struct Listener {
  Socket socket;
  int port = 0;
};

/// At a port that is free, on all addresses of this host. Errors  kRankLost if there is none
Listener listen_anywhere();

/// Waits a second at most; not open if nobody came.
Socket accept_until(const Socket& listener, Deadline deadline);

/// Tries until the deadline; not open if nobody accepted.
Socket connect_until(const std::string& host, int port, Deadline deadline);

/// The address of this host on the way to `host`, such as "10.0.0.1"; empty if that is this host.
std::string own_address_towards(const std::string& host);

}  // namespace stuffed::train
