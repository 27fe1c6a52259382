// The families' variants of the recurrence, for tests of it.
#pragma once
#include <string_view>
#include <vector>

#include "kernels/decay_scan/decay_scan_cases.h"
#include "stuffed/models/family.h"

namespace stuffed::scan_cases {

inline Variant variant_of(const Family& family) {
  return {.name = family.name, .terms = family.terms};
}

inline Variant variant_of(std::string_view family) {
  return variant_of(find_family(family));
}

inline std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const Family* family : families())
    all.push_back(variant_of(*family));
  return all;
}

/// Those whose decays are made of a gate, with the gate.
inline std::vector<Variant> raw_variants() {
  std::vector<Variant> raw;
  for (Variant variant : variants())
    if (variant.terms.gate != GateKind::None) {
      variant.raw = true;
      raw.push_back(variant);
    }
  return raw;
}

}  // namespace stuffed::scan_cases
