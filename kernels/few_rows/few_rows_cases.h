// The products on which every form is compared: weights put into blocks element by element.
#pragma once
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/few_rows/few_rows.h"

namespace stuffed::kernels {

/// `plain` [out,in] in blocks, NaN where outputs are only padding.
struct Blocked {
  at::Tensor memory;
  BlockedWeights weights;

  Blocked(const at::Tensor& plain, int64_t padded_in) {
    const int64_t out = plain.size(0), in = plain.size(1);
    const bool is_bf16 = plain.scalar_type() == at::kBFloat16;
    const int64_t blocks = (out + kBlockOutputs - 1) / kBlockOutputs, pair = is_bf16 ? 2 : 1;
    at::Tensor padded = at::full({blocks * kBlockOutputs, padded_in},
                                 std::numeric_limits<double>::quiet_NaN(), plain.options());
    padded.narrow(0, 0, out).zero_();
    padded.narrow(0, 0, out).narrow(1, 0, in).copy_(plain);
    memory = padded.view({blocks, kBlockOutputs, padded_in / pair, pair})
                 .permute({0, 2, 1, 3})
                 .contiguous();
    weights = {memory.const_data_ptr(), is_bf16, out, in, padded_in};
  }
};

inline NamedInputs<FewRowsInputs> few_rows_cases() {
  at::manual_seed(18);
  NamedInputs<FewRowsInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const auto& [out, in, padded] :
         {std::array<int64_t, 3>{1, 1, 2}, {64, 256, 256}, {65, 257, 288}, {130, 1536, 1536}})
      for (const int64_t rows : {1, 3, 8}) {
        const Blocked blocked(drawn({out, in}, type), padded);
        cases.emplace_back(fmt::format("{} rows, weights {} x {}", rows, out, in),
                           FewRowsInputs{.x = drawn({rows, in}, type),
                                         .blocks = blocked.weights,
                                         .owner = blocked.memory,
                                         .bias = rows > 1 ? at::randn({out}) : at::Tensor()});
      }
  return cases;
}

}  // namespace stuffed::kernels
