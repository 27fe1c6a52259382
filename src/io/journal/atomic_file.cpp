#include "stuffed/io/atomic_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stuffed/core/error.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr int kNames = 100;  // tried for a temporary file

[[noreturn]] void fail_writing(const std::string& path, int error) {
  fail(Error::Kind::Output, "{}: cannot be written: {}", path, std::strerror(error));
}

/// Makes a rename durable. Some file systems cannot sync a folder; the rename stands all the same.
void sync_folder(const fs::path& path) {
  const auto folder = path.has_parent_path() ? path.parent_path().string() : std::string(".");
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file >= 0) {
    ::fsync(file);
    ::close(file);
  }
}

/// Where links lead, so that the file they name is replaced and not they themselves.
fs::path behind_links(fs::path path) {
  std::error_code error;
  for (int links = 0; links < 40 && fs::is_symlink(path, error); ++links) {
    const fs::path target = fs::read_symlink(path, error);
    path = target.is_absolute() ? target : path.parent_path() / target;
  }
  return path;
}

/// A device, a pipe or a folder would be lost if a file took its name.
void check_is_file(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0)
    check(S_ISREG(status.st_mode), Error::Kind::Output,
          "{}: is {}, which a file cannot replace; name a file", path,
          S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe");
  else if (errno != ENOENT)
    fail_writing(path, errno);
}

/// A file without a name: nothing is left of it if the process is killed. Below 0 where the file
/// system has no such files.
int open_nameless(const fs::path& folder) {
  return ::access("/proc/self/fd", X_OK) != 0  // by which it gets its name
             ? -1
             : ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC,
                      0666);
}

}  // namespace

AtomicFile::AtomicFile(const fs::path& path) : path_(behind_links(path).string()) {
  check_is_file(path_);
  file_ = open_nameless(fs::path(path_).parent_path());
  for (int i = 0; file_ < 0 && i < kNames; ++i) {
    temporary_ = name_beside(i);
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && errno != EEXIST)
      break;
  }
  if (file_ < 0) {
    temporary_.clear();
    fail_writing(path_, errno);
  }
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0)
    ::close(file_);
  if (!temporary_.empty())
    ::unlink(temporary_.c_str());
}

std::string AtomicFile::name_beside(int i) const {
  return fmt::format("{}.{}.{}.tmp", path_, ::getpid(), i);
}

/// Gives a file without a name one beside its place.
void AtomicFile::name() {
  const std::string source = fmt::format("/proc/self/fd/{}", file_);
  for (int i = 0; i < kNames; ++i) {
    const std::string name = name_beside(i);
    if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      temporary_ = name;
      return;
    }
    if (errno != EEXIST)
      break;
  }
  fail_writing(path_, errno);
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

void AtomicFile::rewrite_beginning(std::string_view text) {
  if (::lseek(file_, 0, SEEK_SET) != 0)
    fail_writing(path_, errno);
  write(text);
  if (::lseek(file_, 0, SEEK_END) < 0)
    fail_writing(path_, errno);
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0)
    fail_writing(path_, errno);
  if (temporary_.empty())
    name();
  const int closed = ::close(file_);
  file_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_writing(path_, errno);
  temporary_.clear();
  sync_folder(path_);
}

void make_folder_of(const std::filesystem::path& file) {
  std::error_code ignored;
  if (file.has_parent_path())
    std::filesystem::create_directories(file.parent_path(), ignored);
}

void check_text_place(const fs::path& path, std::string_view text, bool overwrite) {
  std::error_code error;
  if (overwrite || !fs::exists(path, error))
    return;
  check_is_file(path.string());
  const bool same = fs::file_size(path, error) == text.size() && read_regular_file(path) == text;
  check(same, Error::Kind::Output,
        "{}: is there with other contents; name another folder, or give --overwrite",
        path.string());
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace stuffed::io
