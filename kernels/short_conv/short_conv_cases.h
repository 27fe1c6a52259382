// The short convolutions on which every form is compared: lengths around the window and the runs of
// the kernel's threads.
#pragma once
#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/short_conv/short_conv.h"

namespace stuffed::kernels {

inline NamedInputs<ShortConvInputs> short_conv_cases() {
  at::manual_seed(12);
  NamedInputs<ShortConvInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const int64_t tokens : {1, 2, 3, 16, 17, 100})
      for (const int64_t width : {2, 4}) {
        const bool silu = width == 4;
        cases.emplace_back(fmt::format("{} tokens, {} taps{}", tokens, width, silu ? ", silu" : ""),
                           ShortConvInputs{.x = drawn({2, tokens, 36}, type, 3),
                                           .weight = at::randn({36, width}),
                                           .bias = silu ? at::randn({36}) : at::Tensor(),
                                           .columns = drawn({2, 36, width - 1}, type),
                                           .silu = silu});
      }
  return cases;
}

}  // namespace stuffed::kernels
