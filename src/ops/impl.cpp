#include "stuffed/ops/impl.h"

#include <algorithm>
#include <array>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

constexpr std::array<std::string_view, 8> kImplNames = {"auto",  "chunked", "reference", "step",
                                                        "tiled", "aten",    "cuda",      "fast"};

// In the order in which they are listed to users.
constexpr std::array kOfScan = {Impl::Auto, Impl::Reference, Impl::Step,   Impl::Tiled,
                                Impl::Aten, Impl::Cuda,      Impl::Chunked};

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

Impl parse_impl(std::string_view name) {
  std::array<std::string_view, kOfScan.size()> known;
  for (size_t i = 0; i < kOfScan.size(); ++i) {
    known[i] = impl_name(kOfScan[i]);
    if (known[i] == name)
      return kOfScan[i];
  }
  fail(Error::Kind::Usage, "'{}' is not an implementation; known are {}", name,
       fmt::join(known, ", "));
}

}  // namespace stuffed
