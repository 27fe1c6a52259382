// ATen's functions of each number by itself where the number of threads must change no bit.
#pragma once
#include <algorithm>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// f(out, parts...), elementwise, of tensors of one shape and type, in pieces of a fixed length.
/// ATen would give each thread an equal share, and computes what is left of a share after whole
/// vectors by another formula for some functions: bits would depend on the number of threads. No
/// gradient is wanted, which other threads would not know: hence detach().
template <class F, class... Parts>
Tensor in_pieces(const F& f, const Parts&... parts) {
  constexpr int64_t kPiece = 32768;  // what ATen leaves to one thread
  const Tensor& first = std::get<0>(std::tie(parts...));
  const int64_t n = first.numel();
  Tensor out = at::empty(first.sizes(), first.options());
  if (!first.is_cpu() || n <= kPiece) {
    f(out, parts...);
    return out;
  }
  const auto flat = std::make_tuple(parts.detach().contiguous().view(-1)...);
  const Tensor whole = out.view(-1);
  at::parallel_for(0, (n + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t at = piece * kPiece, count = std::min(kPiece, n - at);
      Tensor to = whole.narrow(0, at, count);
      std::apply([&](const auto&... x) { f(to, x.narrow(0, at, count)...); }, flat);
    }
  });
  return out;
}

/// x sigmoid(x) and 1 / (1 + exp(-x)), in pieces unless a gradient is wanted.
Tensor silu_in_pieces(const Tensor& x);
Tensor sigmoid_in_pieces(const Tensor& x);

}  // namespace stuffed::kernels
