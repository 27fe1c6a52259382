#include "stuffed/io/regular_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stuffed/core/error.h"

namespace stuffed::io {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode))
    return "a folder";
  if (S_ISFIFO(mode))
    return "a pipe";
  if (S_ISSOCK(mode))
    return "a socket";
  return "a device";
}

void check_regular(const std::string& path, const struct stat& status) {
  const bool is_folder = S_ISDIR(status.st_mode);
  check(S_ISREG(status.st_mode), Error::Kind::Input, "{}: {} where a regular file was expected{}",
        path, kind_of(status.st_mode),
        is_folder ? "" : "; write its contents to a file, and give that file");
}

}  // namespace

void check_regular_file(const std::filesystem::path& path) {
  struct stat status {};
  // Not inside check(): its arguments may be evaluated from the last, errno before the call.
  const bool is_there = ::stat(path.c_str(), &status) == 0;
  check(is_there, Error::Kind::Input, "{}: cannot be read: {}", path.string(),
        std::strerror(errno));
  check_regular(path.string(), status);
}

RegularFile::RegularFile(const std::filesystem::path& path) {
  check_regular_file(path);  // first: opening a device can have effects of its own
  // O_NONBLOCK: should a pipe have taken the file's place since, this does not wait for its writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  check(descriptor_ >= 0, Error::Kind::Input, "{}: cannot be read: {}", path.string(),
        std::strerror(errno));
  struct stat status {};
  const int why = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (why != 0 || !S_ISREG(status.st_mode))
    ::close(descriptor_);
  check(why == 0, Error::Kind::Input, "{}: cannot be read: {}", path.string(), std::strerror(why));
  check_regular(path.string(), status);
  size_ = status.st_size;
}

RegularFile::~RegularFile() {
  ::close(descriptor_);
}

std::string read_regular_file(const std::filesystem::path& path, int64_t max_bytes) {
  const RegularFile file(path);
  check(file.size() <= max_bytes, Error::Kind::Input,
        "{}: {} bytes, more than the {} that such a file may have", path.string(), file.size(),
        max_bytes);
  std::string bytes(static_cast<size_t>(file.size()), '\0');
  for (size_t have = 0; have < bytes.size();) {
    const ssize_t got = ::read(file.descriptor(), bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno == EINTR)
      continue;
    check(got > 0, Error::Kind::Input, "{}: reading its {} bytes failed: {}", path.string(),
          bytes.size(), got < 0 ? std::strerror(errno) : "it has become shorter");
    have += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace stuffed::io
