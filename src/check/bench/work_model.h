// The least work a token costs, however it is computed: what measured times are compared with.
#pragma once
#include "bench_timer.h"
#include "kernels/decay_scan/decay_scan_terms.h"

namespace stuffed::eval {

/// Of one token of one layer.
struct Work {
  double bytes = 0;  // inputs in, y out, in the streams' type; states stay on the chip
  double flops = 0;  // of matrix products, in blocks of 64 tokens
};

/// The recurrence alone. Its streams are q, k (where it is not made from the decay), v, y, and of
/// each token the decay, v_scale, and the two vectors of the erasure, as far as the terms have them;
/// what heads share is read once. A decay given by factors costs exponentials, and no products.
Work scan_work(const ScanTerms& terms, const ScanWidths& widths, at::ScalarType dtype);

/// Seconds that `bytes` and `flops` need at least on a device: the slower of the two.
double floor_seconds(double bytes, double flops, const Ceilings& ceilings);

}  // namespace stuffed::eval
