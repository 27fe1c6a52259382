#include "stuffed/train/schedule.h"

#include <algorithm>

namespace stuffed::train {

double learning_rate(const Schedule& schedule, int64_t step) {
  if (step < schedule.warmup)
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup);
  const int64_t left = schedule.steps - 1 - step;  // steps after this one
  if (left >= schedule.decay)
    return schedule.peak;
  const double height =
      static_cast<double>(std::max<int64_t>(left, 0)) / static_cast<double>(schedule.decay);
  return schedule.last + (schedule.peak - schedule.last) * height;
}

}  // namespace stuffed::train
