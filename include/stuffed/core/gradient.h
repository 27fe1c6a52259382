#pragma once
#include <ATen/core/grad_mode.h>

#include "stuffed/core/tensor.h"

namespace stuffed {

/// Whether a backward pass will ask for a gradient of x, which the kernels without one must leave to
/// ATen. An undefined tensor wants none.
inline bool wants_gradient(const Tensor& x) {
  return at::GradMode::is_enabled() && x.defined() && x.requires_grad();
}

}  // namespace stuffed
