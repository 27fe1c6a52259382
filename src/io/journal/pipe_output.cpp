#include "pipe_output.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <thread>
#include <unistd.h>

#include <climits>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::io {

namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr std::chrono::milliseconds kPause{50};

/// Waits until PIPE_BUF bytes can be written without blocking, or writing would fail.
void wait_for_room(int fd) {
  pollfd place{.fd = fd, .events = POLLOUT, .revents = 0};
  while (::poll(&place, 1, static_cast<int>(kPause.count())) == 0)
    stop_if_interrupted();
}

}  // namespace

int open_fifo(const std::filesystem::path& path) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
      ::fcntl(fd, F_SETFL, 0);
      return fd;
    }
    check(errno == ENXIO || errno == EINTR, Error::Kind::Output, "{}: cannot be written: {}",
          path.string(), std::strerror(errno));
    check(std::chrono::steady_clock::now() < until, Error::Kind::Output,
          "{}: no one reads this pipe; start its reader first, or name a file", path.string());
    stop_if_interrupted();
    std::this_thread::sleep_for(kPause);
  }
}

int write_pipe(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    wait_for_room(fd);
    const ssize_t n = ::write(fd, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));
    if (n < 0 && errno != EINTR && errno != EAGAIN)
      return errno;
    if (n == 0)
      return ENOSPC;
    bytes.remove_prefix(static_cast<size_t>(std::max<ssize_t>(n, 0)));
  }
  return 0;
}

}  // namespace stuffed::io
