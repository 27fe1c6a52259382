#include "stuffed/ops/token_shift.h"

#include <ATen/ATen.h>

namespace stuffed::ops {

ShiftResult token_shift(const Tensor& x, const Tensor& before) {
  const Tensor padded = at::cat({before.to(x.scalar_type()).unsqueeze(1), x}, 1);  // [B,1+T,D]
  return {padded.narrow(1, 0, x.size(1)), padded.select(1, x.size(1)).clone()};
}

}  // namespace stuffed::ops
