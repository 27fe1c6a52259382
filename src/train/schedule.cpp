#include "stuffed/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace stuffed::train {

namespace {

/// 1 at the peak, 0 at the end.
double height(const Schedule& schedule, int64_t step) {
  const int64_t left = std::max<int64_t>(schedule.steps - 1 - step, 0);  // steps after this one
  if (schedule.shape == Shape::Wsd)
    return left >= schedule.decay ? 1
                                  : static_cast<double>(left) / static_cast<double>(schedule.decay);
  const int64_t all = std::max<int64_t>(schedule.steps - 1 - schedule.warmup, 1);
  const double done = 1 - static_cast<double>(left) / static_cast<double>(all);
  return 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace

double learning_rate(const Schedule& schedule, int64_t step) {
  if (step < schedule.warmup)
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup);
  const double part = height(schedule, step);
  return part == 1 ? schedule.peak : schedule.last + (schedule.peak - schedule.last) * part;
}

}  // namespace stuffed::train
