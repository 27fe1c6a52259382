// What each map is, in plain loops: every other form must agree with this one.
#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/map/map.h"

namespace stuffed::kernels {

namespace {

/// Channel c of one row; `past` is the same channel of the row before.
struct MapNumbers {
  double a, b, w, w2, past, least, most;
};

struct MapNumber {
  double y, log_decay;
};

/// 1 - forget and log(forget), forget = w + (1 - w) sigmoid(a), each without cancellation.
MapNumber forget_of(const MapNumbers& x) {
  const double insert = (1 - x.w) * plain_sigmoid(-x.a);
  const double log_forget = insert < 0.5 ? std::log1p(-insert)
                            : x.w > 0    ? std::log(x.w + (1 - x.w) * plain_sigmoid(x.a))
                                         : -plain_softplus(-x.a);
  return {insert, std::min(log_forget, 0.0)};
}

MapNumber map_number(Map map, const MapNumbers& x) {
  switch (map) {
    case Map::SiluProduct:
      return {plain_silu(x.a) * x.b, 0};
    case Map::SigmoidProduct:
      return {plain_sigmoid(x.a) * x.b, 0};
    case Map::ReluSquare:
      return {x.a < 0 ? 0 : x.a * x.a, 0};
    case Map::NegativeExp:
      return {-std::exp(x.a + x.w), 0};
    case Map::Softplus:
      return {plain_softplus(x.a + x.w), 0};
    case Map::ForgetGate:
      return forget_of(x);
    case Map::StepGates: {
      const double step = plain_softplus(x.a + x.w);
      const double dt = step < x.least ? x.least : step > x.most ? x.most : step;  // NaN stays
      return {dt, -dt * std::exp(x.w2)};
    }
    case Map::ShiftMix:
      return {x.a + (x.past - x.a) * (x.w + x.b), 0};
    case Map::Silu:
      return {plain_silu(x.a), 0};
    case Map::Sigmoid:
      return {plain_sigmoid(x.a), 0};
  }
  return {0, 0};
}

}  // namespace

const char* map_name(Map map) {
  constexpr const char* kNames[] = {
      "silu_product", "sigmoid_product", "relu_square", "negative_exp", "softplus",
      "forget_gate",  "step_gates",      "shift_mix",   "silu",         "sigmoid"};
  return kNames[static_cast<int>(map)];
}

bool gives_f32(Map map) {
  return map == Map::NegativeExp || map == Map::Softplus || map == Map::StepGates;
}

bool map_cpu_takes(const MapInputs& in) {
  return in.a.is_cpu();
}

MapResult map_cpu(const MapInputs& in) {
  const Plain a(in.a), b(in.b), w(in.w), w2(in.w2), before(in.before);
  const int64_t C = in.a.size(-1), T = in.a.dim() == 3 ? in.a.size(1) : 1, n = in.a.numel();
  const Tensor y = at::empty(in.a.sizes(), at::kDouble), log_decay = at::empty_like(y);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = i % C, row = i / C;
    const double past = row % T > 0 ? a[i - C] : before.get(row / T * C + c, 0);
    const MapNumber out = map_number(in.map, {.a = a[i],
                                              .b = b.get(i, 0),
                                              .w = w.get(c, 0),
                                              .w2 = w2.get(c, 0),
                                              .past = past,
                                              .least = in.least,
                                              .most = in.most});
    y.mutable_data_ptr<double>()[i] = out.y;
    log_decay.mutable_data_ptr<double>()[i] = out.log_decay;
  }
  const auto type = in.a.scalar_type(), wide = type == at::kDouble ? type : at::kFloat;
  const bool has_decay = in.map == Map::ForgetGate || in.map == Map::StepGates;
  return {y.to(gives_f32(in.map) ? wide : type), has_decay ? log_decay.to(wide) : Tensor()};
}

}  // namespace stuffed::kernels
