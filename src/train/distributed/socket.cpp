#include "src/train/distributed/socket.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "stuffed/core/all_reduce.h"
#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr auto kBetweenTries = std::chrono::milliseconds(100);

void set_option(const Socket& socket, int level, int name, int value) {
  ::setsockopt(socket.descriptor(), level, name, &value, sizeof value);
}

/// Small messages go at once, and on an idle connection a host that vanished without a word is noticed
/// within half a minute. (TCP_USER_TIMEOUT would also end those whose other side is busy elsewhere.)
void make_watchful(const Socket& socket) {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { ::freeaddrinfo(addresses); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses addresses_of(const std::string& host, int port, int type) {
  addrinfo hints = {};
  hints.ai_socktype = type;
  addrinfo* found = nullptr;
  const std::string service = std::to_string(port);
  if (::getaddrinfo(host.c_str(), service.c_str(), &hints, &found) != 0)
    found = nullptr;
  return Addresses(found);
}

/// To the first address that accepts.
Socket connect_once(const std::string& host, int port, int type) {
  const Addresses found = addresses_of(host, port, type);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    Socket socket(::socket(at->ai_family, type | SOCK_CLOEXEC, 0));
    if (socket.is_open() && ::connect(socket.descriptor(), at->ai_addr, at->ai_addrlen) == 0)
      return socket;
  }
  return {};
}

int port_of(const Socket& socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  ::getsockname(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

Socket bound_to(int family, const sockaddr* address, socklen_t size) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open())
    return {};
  if (family == AF_INET6)
    set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  const bool listens = ::bind(socket.descriptor(), address, size) == 0 &&
                       ::listen(socket.descriptor(), SOMAXCONN) == 0;
  return listens ? std::move(socket) : Socket();
}

}  // namespace

Socket::Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Socket::~Socket() {
  if (is_open())
    ::close(descriptor_);
}

bool Socket::send(const void* data, size_t bytes, bool more) const {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = ::send(descriptor_, from, bytes, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent <= 0)
      return false;
    from += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

bool Socket::receive(void* data, size_t bytes) const {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t received = ::recv(descriptor_, to, bytes, 0);
    if (received < 0 && errno == EINTR)
      continue;
    if (received <= 0)
      return false;
    to += received;
    bytes -= static_cast<size_t>(received);
  }
  return true;
}

bool Socket::receive_within(int seconds, void* data, size_t bytes) const {
  const auto limit = [this](int limit_s) {  // 0: none
    const timeval timeout = {.tv_sec = limit_s, .tv_usec = 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  };
  limit(seconds);
  const bool received = receive(data, bytes);
  limit(0);
  return received;
}

Listener listen_anywhere() {
  sockaddr_in6 six = {};
  six.sin6_family = AF_INET6;
  six.sin6_addr = IN6ADDR_ANY_INIT;
  Socket socket = bound_to(AF_INET6, reinterpret_cast<const sockaddr*>(&six), sizeof six);
  if (!socket.is_open()) {  // a host without IPv6
    sockaddr_in four = {};
    four.sin_family = AF_INET;
    four.sin_addr.s_addr = htonl(INADDR_ANY);
    socket = bound_to(AF_INET, reinterpret_cast<const sockaddr*>(&four), sizeof four);
  }
  check(socket.is_open(), kRankLost, "--distributed: no port can be listened at");
  const int port = port_of(socket);
  return {std::move(socket), port};
}

Socket accept_until(const Socket& listener, Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  pollfd waiting = {.fd = listener.descriptor(), .events = POLLIN, .revents = 0};
  const int wait_ms = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1000));
  if (::poll(&waiting, 1, wait_ms) <= 0)
    return {};
  Socket socket(::accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket.is_open())
    make_watchful(socket);
  return socket;
}

Socket connect_until(const std::string& host, int port, Deadline deadline) {
  for (;;) {
    Socket socket = connect_once(host, port, SOCK_STREAM);
    if (socket.is_open())
      make_watchful(socket);
    if (socket.is_open() || std::chrono::steady_clock::now() >= deadline)
      return socket;
    std::this_thread::sleep_for(kBetweenTries);
  }
}

std::string own_address_towards(const std::string& host) {
  const Socket socket = connect_once(host, /*port=*/9, SOCK_DGRAM);  // sends nothing
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> text = {};
  if (!socket.is_open() ||
      ::getsockname(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, text.data(), text.size(),
                    nullptr, 0, NI_NUMERICHOST) != 0)
    return {};
  const std::string found = text.data();
  return found.starts_with("127.") || found == "::1" ? std::string() : found;
}

}  // namespace stuffed::train
