// The least work a token costs, however it is computed: what measured times are compared with.
#pragma once
#include <string>

#include "bench_timer.h"

namespace stuffed::eval {

struct ScanShape {
  std::string family;  // "mamba2", "rwkv5", "rwkv6", "hgrn2", "mamba1", "rwkv7"
  int64_t heads = 0, key_width = 0, value_width = 0;
};

/// Of one token of one layer.
struct Work {
  double bytes = 0;  // inputs in, y out, in the streams' type; states stay on the chip
  double flops = 0;  // of matrix products, in blocks of 64 tokens
};

/// The recurrence alone. Streams: Mamba-2 x, B and C of one group, dt, y; RWKV-5 r, k, v, y; RWKV-6
/// and the decay; HGRN-2 q, f, i, y; Mamba-1 x, dt, B, C, y, bound by exponentials rather than by
/// products, which it has none of; RWKV-7 r, k, v, decay, and the two vectors of the erasure, y.
Work scan_work(const ScanShape& shape, at::ScalarType dtype);

/// Seconds that `bytes` and `flops` need at least on a device: the slower of the two.
double floor_seconds(double bytes, double flops, const Ceilings& ceilings);

}  // namespace stuffed::eval
