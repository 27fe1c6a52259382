// Watches the losses of single steps for spikes.
#pragma once
#include <vector>

#include "src/train/checkpoint.h"

namespace stuffed::train {

/// A step whose loss stands out from those before it.
struct Spike {
  int64_t step;          // counted from 1, as in the journal
  double loss_nats;      // may not be finite
  double expected_nats;  // the mean of the last hundred steps or so
};

/// Losses are noted on the device, where nothing waits for them, and looked at together.
class LossWatch {
 public:
  LossWatch(int64_t steps_between_looks, at::Device device);

  /// The loss of the `taken`-th step, a scalar on the device.
  void note(int64_t taken, const Tensor& loss);
  /// Of the steps since the last look, up to the `taken`-th. A spike lies six deviations and a tenth
  /// above the mean; the first twenty steps are never one.
  std::vector<Spike> look(int64_t taken);

  NamedTensors tensors() const { return {{"loss.recent", recent_}, {"loss.trend", trend_}}; }

 private:
  bool learn(double loss);

  Tensor recent_;  // [steps] f64 on the device; -1 where none was noted
  Tensor trend_;   // [3] f64 on the CPU: mean, variance, steps seen
};

}  // namespace stuffed::train
