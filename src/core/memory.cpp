#include "stuffed/core/memory.h"

#include <algorithm>
#include <array>
#include <new>
#include <string_view>
#include <system_error>

#include <c10/util/Exception.h>

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

}  // namespace stuffed
