#include "stuffed/core/shown.h"

#include <fmt/format.h>

namespace stuffed {

std::string shown(std::string_view text) {
  constexpr size_t kShownBytes = 200;
  return fmt::format("{:?}{}", text.substr(0, kShownBytes), text.size() > kShownBytes ? "..." : "");
}

}  // namespace stuffed
