// What the fuzz targets share: a reader may refuse its input with an Input error and nothing else.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "stuffed/core/error.h"

namespace stuffed::fuzz {

/// Calls action(path) with the path of an in-memory file of these bytes.
template <class Action>
void with_file(const uint8_t* data, size_t size, Action&& action) {
  const int file = ::memfd_create("fuzz", 0);
  if (file < 0 || ::write(file, data, size) != static_cast<ssize_t>(size))
    std::abort();
  try {
    action(std::filesystem::path("/proc/self/fd/" + std::to_string(file)));
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::Input)
      std::abort();
  }
  ::close(file);
}

}  // namespace stuffed::fuzz
