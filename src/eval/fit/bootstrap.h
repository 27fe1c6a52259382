// Intervals of a fit by drawing its points anew.
#pragma once
#include <functional>

#include "src/eval/fit/laws.h"

namespace stuffed::eval::fitting {

/// Curves through points drawn anew: as many state sizes as there are, with replacement, and of each
/// as many of its points (training seeds).
struct Bootstrap {
  std::vector<Curve> curves = {};
  int64_t draws = 0;  // those whose points decide no curve included
};
Bootstrap draw_curves(Law law,
                      const std::vector<Observation>& points,
                      int64_t draws,
                      uint64_t seed,
                      const std::function<void(int64_t done)>& on_progress);

struct QuantileInterval {
  double low, high;
};
/// The 2.5 % and 97.5 % quantiles of a number of the curves. NaN if fewer than half of the draws
/// decide a curve: what is left of them is no sample of all.
QuantileInterval interval_of(const Bootstrap& bootstrap,
                             const std::function<double(const Curve&)>& number);

}  // namespace stuffed::eval::fitting
