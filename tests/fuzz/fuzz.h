// What the fuzz targets share. A target is a function of bytes; libFuzzer calls it through
// entry.cpp, the ordinary tests through replay_test.cpp. A reader may refuse its input with an
// Input error and nothing else.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

#include "stuffed/core/error.h"

namespace stuffed::fuzz {

#define TARGET(name) void fuzz_##name(const uint8_t* data, size_t size);
#include "tests/fuzz/targets.inc"
#undef TARGET

/// What a target found: to libFuzzer an uncaught exception is a crash, to the tests a failure.
[[noreturn]] inline void broken(const std::string& what) {
  throw std::logic_error(what);
}

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Runs action(), which may throw an Input error and no other.
template <class Action>
void may_refuse(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::Input)
      broken(error.what());
  }
}

/// A file in memory, gone with the object.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : file_(::memfd_create("fuzz", 0)) {
    if (file_ < 0 ||
        ::write(file_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      std::abort();  // the machine's fault, not the input's
  }
  ~MemoryFile() { ::close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

/// Calls action(path) with the path of an in-memory file of these bytes; it may refuse them.
template <class Action>
void with_file(const uint8_t* data, size_t size, Action&& action) {
  const MemoryFile file(as_text(data, size));
  may_refuse([&] { action(file.path()); });
}

}  // namespace stuffed::fuzz
