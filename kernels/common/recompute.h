// Trading time for memory in training: a function whose intermediate values are not kept for its
// backward pass.
#pragma once
#include <functional>
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

using TensorFunction = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

/// function(inputs). Under autograd only the inputs are saved, and the function runs a second time
/// in the backward pass. It must be pure and must return new tensors. Inputs may be undefined.
std::vector<Tensor> recompute(const TensorFunction& function, const std::vector<Tensor>& inputs);

/// The same for a function that also reads leaves, such as weights, which are no inputs of it: their
/// gradients are added where they are. Both passes choose the operators that have a gradient, so
/// the outputs are those of a call without recomputation.
std::vector<Tensor> recompute_with_leaves(const TensorFunction& function,
                                          const std::vector<Tensor>& inputs);

}  // namespace stuffed::kernels
