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

}  // namespace stuffed::kernels
