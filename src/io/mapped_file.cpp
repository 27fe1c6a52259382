#include "mapped_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace stuffed::io {

MappedFile::MappedFile(const std::filesystem::path& path) : name_(path.string()) {
  const int file = ::open(name_.c_str(), O_RDONLY | O_CLOEXEC);
  check(file >= 0, Error::Kind::Input, "{}: cannot be read: {}", name_, std::strerror(errno));
  struct stat status {};
  const bool is_known = ::fstat(file, &status) == 0;
  const auto size = static_cast<size_t>(status.st_size);
  void* address = MAP_FAILED;
  int error = errno;
  if (is_known && S_ISREG(status.st_mode) && size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    error = errno;
  }
  ::close(file);
  check(!is_known || !S_ISDIR(status.st_mode), Error::Kind::Input,
        "{}: a folder where a file was expected", name_);
  check(!is_known || S_ISREG(status.st_mode), Error::Kind::Input, "{}: not a regular file", name_);
  check(!is_known || size > 0, Error::Kind::Input, "{}: the file is empty", name_);
  check(address != MAP_FAILED, Error::Kind::Input, "{}: cannot be mapped into memory: {}", name_,
        std::strerror(error));
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(size_t offset, size_t size) const {
  // Rounded outwards: the pages are clean, so a neighbour's share of one is merely read again.
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, offset + size - begin, MADV_DONTNEED);
}

}  // namespace stuffed::io
