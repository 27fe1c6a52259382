// The norms on which every form is compared: widths on both sides of the kernel's borders, and each
// switch.
#pragma once
#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/norm/norm.h"

namespace stuffed::kernels {

inline NormInputs drawn_norm(int64_t channels, at::ScalarType type) {
  return {
      .x = drawn({2, 5, channels}, type, 3) + 0.5, .weight = at::randn({channels}), .eps = 1e-5};
}

inline NamedInputs<NormInputs> norm_cases() {
  at::manual_seed(11);
  NamedInputs<NormInputs> cases;
  for (const at::ScalarType type : kCaseTypes) {
    for (const int64_t D : {1, 6, 60, 64, 260, 768, 2052, 4096}) {
      NormInputs rms = drawn_norm(D, type), layer = drawn_norm(D, type);
      rms.out = D % 8 == 0 ? type : at::kFloat;
      layer.bias = at::randn({D}), layer.centre = true;
      cases.emplace_back(fmt::format("rms of {}", D), rms);
      if (D > 1)  // the variance of one number is 0, and its norm a sign
        cases.emplace_back(fmt::format("layer of {}", D), layer);
    }
    for (const int64_t parts : {1, 3, 32}) {
      const int64_t D = parts * 64;
      NormInputs group = drawn_norm(D, type);
      group.bias = at::randn({D}), group.centre = true, group.parts = parts;
      group.gate = drawn({2, 5, D}, type), group.eps = 64e-5;
      cases.emplace_back(fmt::format("{} groups, gated", parts), group);
      for (const bool gate_first : {false, true})
        for (const bool has_norm : {false, true}) {
          NormInputs gated = drawn_norm(D, type);
          gated.parts = parts, gated.gate = drawn({2, 5, D}, type), gated.gate_first = gate_first;
          gated.skip = drawn({2, 5, D}, type), gated.skip_weight = at::randn({parts * 16});
          if (!has_norm)
            gated.weight = at::Tensor();
          cases.emplace_back(
              fmt::format("{} parts, skip and {} gate{}", parts, gate_first ? "first" : "last",
                          has_norm ? "" : ", no norm"),
              gated);
        }
    }
  }
  return cases;
}

}  // namespace stuffed::kernels
