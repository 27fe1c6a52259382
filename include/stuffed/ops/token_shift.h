#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

struct ShiftResult {
  Tensor previous;  // [B,T,D]: row t holds x_{t-1}
  Tensor last;      // [B,D]: x_{T-1}, to be carried; a copy of its own
};

/// RWKV's token shift, carried across segments. x [B,T,D]; before [B,D], the row before x_0 (zeros
/// at the start).
ShiftResult token_shift(const Tensor& x, const Tensor& before);

}  // namespace stuffed::ops
