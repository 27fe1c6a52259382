#include "stuffed/io/atomic_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include "stuffed/core/error.h"

namespace stuffed::io {
namespace {

[[noreturn]] void fail_writing(const std::string& path, int error) {
  fail(Error::Kind::Output, "{}: cannot be written: {}", path, std::strerror(error));
}

/// Makes a rename durable. Some file systems cannot sync a folder; the rename stands all the same.
void sync_folder(const std::filesystem::path& path) {
  const auto folder = path.has_parent_path() ? path.parent_path().string() : std::string(".");
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file >= 0) {
    ::fsync(file);
    ::close(file);
  }
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path)
    : path_(path.string()),
      temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())),
      file_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (file_ < 0)
    fail_writing(path_, errno);
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0)
    ::close(file_);
  if (!temporary_.empty())
    ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(file_, next, std::min(bytes, size_t{1} << 30));
    if (written < 0 && errno == EINTR)
      continue;
    if (written < 0)
      fail_writing(path_, errno);
    next += written;
    bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0)
    fail_writing(path_, errno);
  const int closed = ::close(file_);
  file_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_writing(path_, errno);
  temporary_.clear();
  sync_folder(path_);
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace stuffed::io
