#include "stuffed/ops/step_gates.h"

#include "map_op.h"

namespace stuffed::ops {

StepGates step_gates(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most) {
  const MapResult out =
      map({.map = Map::StepGates, .a = raw, .w = bias, .w2 = a_log, .least = least, .most = most});
  return {out.y, out.log_decay};
}

}  // namespace stuffed::ops
