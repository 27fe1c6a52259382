// The gates and outputs of RWKV-7 on which every form is compared.
#pragma once
#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/delta_rule/delta_rule.h"

namespace stuffed::kernels {

inline DeltaGatesInputs drawn_delta_gates(int64_t heads,
                                          int64_t width,
                                          bool mixes,
                                          at::ScalarType type) {
  const int64_t D = heads * width;
  const auto stream = [&] { return drawn({2, 7, D}, type, 2); };
  DeltaGatesInputs in{.streams = {.query = stream(),
                                  .key = stream(),
                                  .value = stream(),
                                  .decay = stream(),
                                  .rate = stream()},
                      .parameters = {.decay_base = at::randn({D}),
                                     .rate_base = at::randn({D}),
                                     .value_base = mixes ? at::randn({D}) : at::Tensor(),
                                     .read_scale = at::randn({D}),
                                     .rate_scale = at::randn({D}),
                                     .bonus = at::randn({heads, width})}};
  in.streams.key[0][0].zero_();  // a direction without a length
  if (mixes)
    in.streams.value_mix = stream(), in.streams.first_value = stream();
  return in;
}

inline NamedInputs<DeltaGatesInputs> delta_gates_cases() {
  at::manual_seed(15);
  NamedInputs<DeltaGatesInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {3, 128}, {5, 60}, {2, 6}})
      for (const bool mixes : {false, true})
        cases.emplace_back(
            fmt::format("gates, {} heads of {}{}", heads, width, mixes ? ", values mixed" : ""),
            drawn_delta_gates(heads, width, mixes, type));
  return cases;
}

inline NamedInputs<DeltaOutputInputs> delta_output_cases() {
  at::manual_seed(16);
  NamedInputs<DeltaOutputInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const auto& [heads, width] : {std::pair<int64_t, int64_t>{1, 64}, {3, 128}, {5, 60}}) {
      const int64_t D = heads * width;
      const auto stream = [&, D = D] { return drawn({2, 7, D}, type); };
      cases.emplace_back(fmt::format("output, {} heads of {}", heads, width),
                         DeltaOutputInputs{.y = stream(),
                                           .value = stream(),
                                           .strength = at::randn({2, 7, heads}),
                                           .gate = stream(),
                                           .weight = at::randn({D}),
                                           .bias = at::randn({D}),
                                           .eps = 64e-5});
    }
  return cases;
}

}  // namespace stuffed::kernels
