// The learning rate at each step.
#pragma once
#include <cstdint>

namespace stuffed::train {

/// Both rise linearly from 0 to `peak` over the first `warmup` steps; the last step of all has
/// exactly `last`.
enum class Shape {
  Wsd,     // warm-up, stable, decay: constant, then linear to `last` over the final `decay` steps
  Cosine,  // half a cosine from `peak` to `last` over all steps behind the warm-up
};

struct Schedule {
  double peak = 1e-3;
  double last = 0;
  int64_t warmup = 0;  // steps
  int64_t decay = 0;   // steps, of Wsd
  int64_t steps = 0;   // of the whole run
  Shape shape = Shape::Wsd;
};

/// The rate of step `step`, counted from 0. With a warm-up the first step already moves: its rate
/// is peak / warmup.
double learning_rate(const Schedule& schedule, int64_t step);

}  // namespace stuffed::train
