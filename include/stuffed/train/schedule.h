// The learning rate at each step: warm-up, stable, decay.
#pragma once
#include <cstdint>

namespace stuffed::train {

/// Linear from 0 to `peak` over the first `warmup` steps, constant, then linear to `last` over the
/// final `decay` steps (the last step of all has exactly `last`).
struct Schedule {
  double peak = 1e-3;
  double last = 0;
  int64_t warmup = 0;  // steps
  int64_t decay = 0;   // steps
  int64_t steps = 0;   // of the whole run
};

/// The rate of step `step`, counted from 0. With a warm-up the first step already moves: its rate
/// is peak / warmup.
double learning_rate(const Schedule& schedule, int64_t step);

}  // namespace stuffed::train
