#include "stuffed/ops/impl.h"

#include <algorithm>
#include <array>

namespace stuffed {

namespace {

constexpr std::array<std::string_view, 8> kImplNames = {"auto",  "chunked", "reference", "step",
                                                        "tiled", "aten",    "cuda",      "fast"};

}  // namespace

std::string_view impl_name(Impl impl) {
  return kImplNames.at(static_cast<size_t>(impl));
}

std::optional<Impl> impl_called(std::string_view name) {
  const auto found = std::ranges::find(kImplNames, name);
  if (found == kImplNames.end())
    return {};
  return static_cast<Impl>(found - kImplNames.begin());
}

}  // namespace stuffed
