#include "stuffed/core/memory.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <system_error>

#include <c10/util/Exception.h>

#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"

namespace stuffed {

namespace {

// oneDNN says no more than this when its workspace or its code cannot be allocated; what it does
// not support it says of a "primitive descriptor".
constexpr std::array<std::string_view, 6> kTexts = {
    "allocate memory",           "not enough memory",
    "Cannot allocate memory",    "could not execute a primitive",
    "could not create a memory", "could not initialize a memory"};
constexpr std::string_view kNoPrimitive = "could not create a primitive";

bool says_so(std::string_view text) {
  const size_t found = text.find(kNoPrimitive);
  const bool no_primitive =
      found != text.npos && !text.substr(found + kNoPrimitive.size()).starts_with(" descriptor");
  return no_primitive || std::ranges::any_of(kTexts, [&](std::string_view part) {
           return text.find(part) != text.npos;
         });
}

}  // namespace

bool is_out_of_memory(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error))
    return own->kind() == Error::Kind::Memory;
  if (dynamic_cast<const std::bad_alloc*>(&error) ||
      dynamic_cast<const c10::OutOfMemoryError*>(&error))
    return true;
  if (const auto* torch = dynamic_cast<const c10::Error*>(&error))
    return says_so(torch->what_without_backtrace());
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return system->code() == std::errc::not_enough_memory ||
           system->code() == std::errc::resource_unavailable_try_again;
  return says_so(error.what());
}

namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

/// The number behind `key` in a file of lines "key: 123 kB"; without a unit it is bytes.
int64_t bytes_in(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;)
    if (word == key) {
      int64_t number = 0;
      std::string unit;
      file >> number >> unit;
      return file.fail() ? kNoLimit : number * (unit == "kB" ? 1024 : 1);
    }
  return kNoLimit;
}

/// The one number of a file; no limit for "max", or if there is none.
int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : kNoLimit;
}

/// What the control group leaves, by its second or first version; files read are given up first.
int64_t left_of_group() {
  const std::string folder = "/sys/fs/cgroup/", older = folder + "memory/";
  const bool second = number_in(folder + "memory.max") != kNoLimit;
  const int64_t limit =
      second ? number_in(folder + "memory.max") : number_in(older + "memory.limit_in_bytes");
  const int64_t used =
      second ? number_in(folder + "memory.current") : number_in(older + "memory.usage_in_bytes");
  if (limit == kNoLimit || used == kNoLimit)
    return kNoLimit;
  const int64_t files = second ? bytes_in(folder + "memory.stat", "inactive_file")
                               : bytes_in(older + "memory.stat", "total_inactive_file");
  return std::max<int64_t>(0, limit - used + (files == kNoLimit ? 0 : files));
}

int64_t left_of_addresses() {
  rlimit limit = {};
  const int64_t taken = bytes_in("/proc/self/status", "VmSize:");
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || taken == kNoLimit)
    return kNoLimit;
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - taken);
}

}  // namespace

int64_t free_memory_bytes(c10::Device device) {
  if (device.is_cuda() && cuda_library() != nullptr) {
    const int index = std::max<int>(device.index(), 0);
    size_t free = 0;
    check(cuda_library()->free_memory(index, &free) == 0, Error::Kind::Unsupported,
          "{}: does not say how much memory is free", device.str());
    return static_cast<int64_t>(free + cuda_library()->unused_memory(index));
  }
  return std::min(
      {bytes_in("/proc/meminfo", "MemAvailable:"), left_of_group(), left_of_addresses()});
}

void release_unused_memory(c10::Device device) {
  if (device.is_cuda() && cuda_library() != nullptr)
    cuda_library()->release_unused_memory();
}

}  // namespace stuffed
