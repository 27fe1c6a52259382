// What several mitigations do to the inputs of an update.
#pragma once
#include <functional>

#include "stuffed/core/tensor.h"

namespace stuffed::recurrence {

/// f(x), elementwise, computed once for the heads that share a value (Mamba-2's k) and expanded
/// again.
Tensor map_shared(const Tensor& x, const std::function<Tensor(const Tensor&)>& f);

/// Whether all heads of x [B,T,H,...] are one head, expanded.
bool shares_heads(const Tensor& x);

}  // namespace stuffed::recurrence
