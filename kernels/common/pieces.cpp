#include "kernels/common/pieces.h"

#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

Tensor silu_in_pieces(const Tensor& x) {
  if (wants_gradient(x))
    return at::silu(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::silu_out(out, piece); }, x);
}

Tensor sigmoid_in_pieces(const Tensor& x) {
  if (wants_gradient(x))
    return at::sigmoid(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::sigmoid_out(out, piece); }, x);
}

}  // namespace stuffed::kernels
