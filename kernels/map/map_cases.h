// The maps on which every form is compared.
#pragma once
#include <limits>

#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/map/map.h"

namespace stuffed::kernels {

inline MapInputs drawn_map(Map map, int64_t batch, int64_t tokens, at::ScalarType type) {
  constexpr int64_t kChannels = 324;
  const bool takes_b =
      map == Map::SiluProduct || map == Map::SigmoidProduct || map == Map::ShiftMix;
  const auto rows = [&](double scale) { return drawn({batch, tokens, kChannels}, type, scale); };
  MapInputs in{.map = map, .a = rows(3), .b = takes_b ? rows(1) : at::Tensor()};
  switch (map) {
    case Map::NegativeExp:
    case Map::Softplus:
      in.w = at::randn({kChannels});
      break;
    case Map::ForgetGate:
      in.w = at::rand({kChannels}) * 0.9;
      break;
    case Map::StepGates:
      in.w = at::randn({kChannels}), in.w2 = at::randn({kChannels});
      in.least = 1e-3, in.most = 5;
      break;
    case Map::ShiftMix:
      in.w = at::rand({kChannels}), in.before = drawn({batch, kChannels}, type);
      break;
    default:
      break;
  }
  return in;
}

inline NamedInputs<MapInputs> map_cases() {
  at::manual_seed(13);
  constexpr Map kAll[] = {Map::SiluProduct, Map::SigmoidProduct, Map::ReluSquare, Map::NegativeExp,
                          Map::Softplus,    Map::ForgetGate,     Map::StepGates,  Map::ShiftMix,
                          Map::Silu,        Map::Sigmoid};
  NamedInputs<MapInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const Map map : kAll)
      for (const auto& [batch, tokens] : {std::pair<int64_t, int64_t>{1, 3}, {2, 60}})
        cases.emplace_back(fmt::format("{}, {} tokens", map_name(map), batch * tokens),
                           drawn_map(map, batch, tokens, type));
  return cases;
}

}  // namespace stuffed::kernels
