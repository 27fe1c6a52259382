#include "stuffed/ops/impl.h"

#include <array>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

constexpr std::array<std::string_view, 7> kImplNames = {"auto",  "chunked", "reference", "step",
                                                        "tiled", "aten",    "cuda"};

// In the order in which they are listed to users.
constexpr std::array kOfScan = {Impl::Auto, Impl::Reference, Impl::Step,   Impl::Tiled,
                                Impl::Aten, Impl::Cuda,      Impl::Chunked};

}  // namespace

std::string_view impl_name(Impl impl) {
  return kImplNames.at(static_cast<size_t>(impl));
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
