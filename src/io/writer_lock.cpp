#include "stuffed/io/writer_lock.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace stuffed::io {

WriterLock::WriterLock(const std::filesystem::path& folder)
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  const bool is_taken =
      descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (!is_taken)
    return;
  ::close(descriptor_);
  throw InUse(fmt::format("{}: another process is writing into it; wait for it, or name another",
                          folder.string()));
}

WriterLock::~WriterLock() {
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

}  // namespace stuffed::io
