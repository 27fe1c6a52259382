#include "work_model.h"

#include <algorithm>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {
constexpr double kBlock = 64;  // tokens multiplied together
}  // namespace

Work scan_work(const ScanShape& shape, at::ScalarType dtype) {
  const auto H = static_cast<double>(shape.heads), K = static_cast<double>(shape.key_width),
             V = static_cast<double>(shape.value_width);
  const auto element = static_cast<double>(c10::elementSize(dtype));
  // Scores q k^T within a block, scores times v, what the state gives to y, what is added to it.
  const double scores = 2 * kBlock * K, values = 2 * kBlock * V, states = 4 * K * V;
  if (shape.family == "mamba2")  // one score matrix for all heads
    return {.bytes = (2 * K + 2 * H * V + H) * element, .flops = scores + H * (values + states)};
  if (shape.family == "mamba1")
    return {.bytes = (2 * K + 3 * H) * element, .flops = 0};
  if (shape.family == "rwkv5" || shape.family == "hgrn2")
    return {.bytes = H * (2 * K + 2 * V) * element, .flops = H * (scores + values + states)};
  if (shape.family == "rwkv6")
    return {.bytes = H * (3 * K + 2 * V) * element, .flops = H * (scores + values + states)};
  check(shape.family == "rwkv7", Error::Kind::Internal, "no work model of family '{}'",
        shape.family);
  // Two readers (q and the erased direction) and two writers make four score matrices, three
  // products with values, and twice the work on the state.
  return {.bytes = H * (5 * K + 2 * V) * element,
          .flops = H * (4 * scores + 3 * values + 2 * states)};
}

double floor_seconds(double bytes, double flops, const Ceilings& ceilings) {
  return std::max(bytes / ceilings.copy_bytes_per_s, flops / ceilings.matmul_flops_per_s);
}

}  // namespace stuffed::eval
