#include "stuffed/core/shown.h"

#include <fmt/format.h>

namespace stuffed {

std::string shown(std::string_view text) {
  constexpr size_t kShownBytes = 200;
  return fmt::format("{:?}{}", text.substr(0, kShownBytes), text.size() > kShownBytes ? "..." : "");
}

std::string counted(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace stuffed
