// RWKV-6's mixes on which every form is compared: ranks that the kernel has, and one that it has not.
#pragma once
#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/shift_mixes/shift_mixes.h"

namespace stuffed::kernels {

inline NamedInputs<ShiftMixesInputs> shift_mixes_cases() {
  at::manual_seed(17);
  constexpr int64_t kChannels = 128;
  NamedInputs<ShiftMixesInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const int64_t rank : {16, 32, 64, 24})
      for (const int64_t tokens : {1, 17}) {
        ShiftMixesInputs in{.x = drawn({2, tokens, kChannels}, type),
                            .before = drawn({2, kChannels}, type),
                            .shares = {},
                            .low = drawn({2, tokens, kShiftMixes, rank}, type),
                            .factors = drawn({kShiftMixes, rank, kChannels}, type, 0.2)};
        for (int m = 0; m < kShiftMixes; ++m)
          in.shares.push_back(at::randn({kChannels}));
        cases.emplace_back(fmt::format("rank {}, {} tokens", rank, tokens), in);
      }
  return cases;
}

}  // namespace stuffed::kernels
