// Where bytes come from, how long a pipe is waited for, and what is not read at all.
#include "stuffed/io/byte_stream.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <vector>

#include "decompress.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr size_t kBlock = size_t{1} << 16;

std::string name_of(const fs::path& path) {
  return path == "-" ? "standard input" : path.string();
}

/// Standard input may also be a terminal, a socket, or nothing at all (/dev/null).
bool may_be_standard_input(const struct stat& status) {
  const bool null = S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
  return S_ISSOCK(status.st_mode) || null || ::isatty(STDIN_FILENO) != 0;
}

/// Looks without opening: opening a device can do something.
struct stat look_at(const fs::path& path) {
  struct stat status = {};
  const bool is_input = path == "-";
  const int failed = is_input ? ::fstat(STDIN_FILENO, &status) : ::stat(path.c_str(), &status);
  check(failed == 0, Error::Kind::Input, "{}: cannot be read: {}", name_of(path),
        std::strerror(errno));
  check(!S_ISDIR(status.st_mode), Error::Kind::Input, "{}: is a folder, expected a file or a pipe",
        name_of(path));
  check(S_ISREG(status.st_mode) || S_ISFIFO(status.st_mode) ||
            (is_input && may_be_standard_input(status)),
        Error::Kind::Input, "{}: is a device or a socket, expected a file or a pipe",
        name_of(path));
  return status;
}

}  // namespace

void PipeRecord::add(std::string_view bytes) {
  hash_.update(bytes.data(), bytes.size());
  bytes_ += static_cast<int64_t>(bytes.size());
}

struct ByteStream::Impl {
  std::string name;
  StreamOptions options;
  int fd = -1;
  bool is_input = false, is_regular = false, is_pipe = false;
  bool begun = false, at_end = false;
  std::vector<char> raw, text;      // blocks: as read, and decompressed
  std::string_view left_raw, left;  // not yet decompressed, not yet taken
  std::unique_ptr<Decompressor> decompressor;

  ~Impl() {
    if (fd >= 0 && !is_input)
      ::close(fd);
  }
  void wait() const;
  size_t read_some(std::span<char> out) const;
  void begin();
  void fill();
  void decompress();
};

/// In slices, so that a signal is noticed.
void ByteStream::Impl::wait() const {
  using Clock = std::chrono::steady_clock;
  auto begin = Clock::now();
  const bool is_patient = options.wait || (is_input && ::isatty(fd) != 0);
  for (pollfd what{.fd = fd, .events = POLLIN, .revents = 0}; ::poll(&what, 1, 100) <= 0;) {
    stop_if_interrupted();
    if (options.record && !options.record->is_awaited())
      begin = Clock::now();
    const std::chrono::duration<double> waited = Clock::now() - begin;
    check(is_patient || waited.count() < options.patience_seconds, Error::Kind::Input,
          "{}: nothing arrived for {} s; does anything write to it? To wait longer, give --wait",
          name, options.patience_seconds);
  }
}

/// 0 at the end.
size_t ByteStream::Impl::read_some(std::span<char> out) const {
  while (true) {
    if (!is_regular)
      wait();
    stop_if_interrupted();
    const ssize_t got = ::read(fd, out.data(), out.size());
    if (got >= 0)
      return static_cast<size_t>(got);
    check(errno == EINTR || errno == EAGAIN, Error::Kind::Input, "{}: reading failed: {}", name,
          std::strerror(errno));
  }
}

void ByteStream::Impl::begin() {
  begun = true;
  raw.resize(kBlock);
  size_t have = 0;
  bool ended = false;
  while (!ended && have < kMagicBytes) {
    const size_t got = read_some(std::span(raw).subspan(have));
    have += got;
    ended = got == 0;
  }
  decompressor = decompressor_for({raw.data(), have}, name);
  at_end = ended && !decompressor;
  (decompressor ? left_raw : left) = {raw.data(), have};
}

void ByteStream::Impl::fill() {
  if (decompressor)
    return decompress();
  left = {raw.data(), read_some(raw)};
  at_end = left.empty();
}

void ByteStream::Impl::decompress() {
  text.resize(kBlock);
  bool is_full = false;  // then more may come out without more going in
  while (left.empty() && !at_end) {
    if (left_raw.empty() && !is_full) {
      left_raw = {raw.data(), read_some(raw)};
      at_end = left_raw.empty();
      check(!at_end || decompressor->is_whole(), Error::Kind::Input,
            "{}: its compressed data end too soon; the file is truncated", name);
      if (at_end)
        return;
    }
    const Decompressor::Step step = decompressor->run(left_raw, text);
    left_raw.remove_prefix(step.read);
    left = {text.data(), step.written};
    is_full = step.written == text.size();
  }
}

ByteStream::ByteStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ByteStream::~ByteStream() = default;
ByteStream::ByteStream(ByteStream&&) noexcept = default;
ByteStream& ByteStream::operator=(ByteStream&&) noexcept = default;

ByteStream ByteStream::open(const fs::path& path, const StreamOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->name = name_of(path);
  impl->options = options;
  impl->is_input = path == "-";
  struct stat status = look_at(path);
  if (impl->is_input) {
    impl->fd = STDIN_FILENO;
  } else {
    // Without O_NONBLOCK, opening a pipe that nobody writes would never return.
    impl->fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    // Not inside check(): its arguments may be evaluated from the last, errno before the call.
    const bool is_there = impl->fd >= 0 && ::fstat(impl->fd, &status) == 0;
    check(is_there, Error::Kind::Input, "{}: cannot be read: {}", impl->name, std::strerror(errno));
  }
  impl->is_regular = S_ISREG(status.st_mode);
  impl->is_pipe = impl->is_input || !impl->is_regular;
  return ByteStream(std::move(impl));
}

std::string_view ByteStream::peek() {
  if (!impl_->begun)
    impl_->begin();
  if (impl_->left.empty() && !impl_->at_end)
    impl_->fill();
  return impl_->left;
}

void ByteStream::take(size_t bytes) {
  if (impl_->is_pipe && impl_->options.record)
    impl_->options.record->add(impl_->left.substr(0, bytes));
  impl_->left.remove_prefix(bytes);
}

bool ByteStream::is_pipe() const {
  return impl_->is_pipe;
}
bool ByteStream::is_limited() const {
  return !impl_->is_pipe && !impl_->decompressor;
}
const std::string& ByteStream::name() const {
  return impl_->name;
}

bool is_pipe(const fs::path& path) {
  return path == "-" || !S_ISREG(look_at(path).st_mode);
}

std::string read_stream(const fs::path& path, const StreamOptions& options) {
  constexpr size_t kMost = size_t{1} << 30;
  ByteStream stream = ByteStream::open(path, options);
  std::string all;
  for (std::string_view more; !(more = stream.peek()).empty(); stream.take(more.size())) {
    all += more;
    check(stream.is_limited() || all.size() <= kMost, Error::Kind::Input,
          "{}: more than {} bytes, and the end is not reached; write the text to a file first",
          stream.name(), kMost);
  }
  return all;
}

}  // namespace stuffed::io
