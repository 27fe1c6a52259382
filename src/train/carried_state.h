// The states that sequences start from and leave: from one step to the next when the backward pass
// is cut into segments, and from one document to the next.
#pragma once
#include <string>
#include <vector>

#include "src/train/checkpoint.h"
#include "stuffed/models/recurrent_lm.h"
#include "stuffed/train/trainer.h"

namespace stuffed::train {

/// The states of a step's parts, one after the other in a batch that is accumulated.
class CarriedState {
 public:
  CarriedState(const RecurrentLM& model, const TrainConfig& config);

  /// What part `part` of step `step` starts from. A function of the arguments and of what the step
  /// before left.
  State start(int64_t step, int64_t part) const;
  /// What the parts of `step` left; kept, without its history, if a later step asks for it.
  void finish(int64_t step, std::vector<State> left);

  /// For a checkpoint: what is kept.
  NamedTensors tensors() const;
  /// As it was when `saved` was written.
  void restore(const SavedRun& saved);

 private:
  State empty() const;
  State noise(int64_t step, int64_t part) const;

  const RecurrentLM& model_;
  int64_t segments_, parts_, rows_;
  InitialState initial_;
  double deviation_;
  uint64_t seed_;
  std::vector<State> left_;  // by part; none: nothing was kept
};

/// In these rows the state is empty again; the others keep theirs, history
/// included.
void restart(State& state, const std::vector<int64_t>& rows);

}  // namespace stuffed::train
