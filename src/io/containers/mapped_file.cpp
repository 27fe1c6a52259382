#include "mapped_file.h"

#include <cerrno>
#include <sys/mman.h>
#include <unistd.h>

#include "stuffed/io/regular_file.h"

namespace stuffed::io {

MappedFile::MappedFile(const std::filesystem::path& path) : name_(path.string()) {
  const RegularFile file(path);
  const auto size = static_cast<size_t>(file.size());
  check(size > 0, Error::Kind::Input, "{}: the file is empty", name_);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  check(address != MAP_FAILED, errno == ENOMEM ? Error::Kind::Memory : Error::Kind::Input,
        "{}: cannot be mapped into memory: {}", name_, std::strerror(errno));
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
