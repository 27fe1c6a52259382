// The states that sequences start from and leave: from one step to the next when the backward pass
// is cut into segments, and from one document to the next.
#pragma once
#include <string>
#include <vector>

#include "src/train/checkpoint.h"
#include "stuffed/models/recurrent_lm.h"
#include "stuffed/train/ranks.h"
#include "stuffed/train/trainer.h"

namespace stuffed::train {

/// The states of a step's parts, one after the other in a batch that is accumulated. A rank of a
/// distributed run holds its rows of each part.
class CarriedState {
 public:
  CarriedState(const RecurrentLM& model, const TrainConfig& config, Ranks& ranks);

  /// To be called by all ranks before the parts of `step` are started.
  void prepare(int64_t step);

  /// What part `part` of step `step` starts from. A function of the arguments and of what the step
  /// before left.
  State start(int64_t step, int64_t part) const;
  /// What the parts of `step` left; kept, without its history, if a later step asks for it.
  void finish(int64_t step, std::vector<State> left);

  /// For a checkpoint: what is kept, on rank 0 of the rows of all ranks. By all ranks.
  NamedTensors tensors() const;
  /// As it was when `saved` was written, of the rows of all ranks: for rank 0, before share().
  void restore(const SavedRun& saved);
  /// Each rank has its rows of what rank 0 restored. By all ranks.
  void share();

 private:
  struct Moments {
    Tensor mean, deviation;  // [1,H,1,1]
  };
  State empty() const;
  NamedTensors own_tensors() const;
  Moments moments_of(const Tensor& recurrent) const;
  State noise(int64_t step, int64_t part) const;

  const RecurrentLM& model_;
  Ranks& ranks_;
  int64_t segments_, parts_, rows_;  // rows of this rank
  InitialState initial_;
  double deviation_;
  uint64_t seed_;
  std::vector<State> left_;                    // by part; none: nothing was kept
  std::vector<std::vector<Moments>> moments_;  // of those by layer, where noise is fitted to them
};

/// In these rows the state is empty again; the others keep theirs, history
/// included.
void restart(State& state, const std::vector<int64_t>& rows);

}  // namespace stuffed::train
