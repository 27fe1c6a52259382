// AdamW over a model's parameters, with everything it remembers in the open so that a checkpoint
// can hold it.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "stuffed/models/parameters.h"

namespace stuffed::train {

struct AdamWOptions {
  double weight_decay = 0.1;  // on matrices and the embedding, not on norms, biases and gates
  std::vector<std::string> undecayed = {};  // nor on what has one of these in its name
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double clip = 1.0;  // largest norm of the gradient; 0: none
};

class AdamW {
 public:
  /// The tensors of `parameters` become leaves that require gradients. Source  arXiv:1711.05101
  AdamW(const ParameterList& parameters, const AdamWOptions& options);

  /// Those that backward() left, to be written to; zeros for a weight that no loss depends on.
  std::vector<Tensor> gradients();
  /// Clips the gradients that backward() left, takes one step, clears them. Returns the norm before
  /// clipping (a scalar on the device, so nothing waits).
  Tensor step(double learning_rate);
  /// Forgets what backward() left.
  void clear_gradients();

  /// Weights and moments by name, as a checkpoint holds them; the tensors themselves, to be written
  /// to when one is read.
  std::vector<std::pair<std::string, Tensor>> tensors() const;

 private:
  struct Group {
    double weight_decay;
    std::vector<std::string> names;
    std::vector<Tensor> weights, first, second;
  };
  AdamWOptions options_;
  std::vector<Group> groups_;
  Tensor steps_;  // f32 scalar: steps taken
};

}  // namespace stuffed::train
