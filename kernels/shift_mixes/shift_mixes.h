// RWKV-6's token-shift mixes, whose shares depend on the token through a low-rank product: the
// contract, and the programs that compute it.
//
//   y[m]_t = x_t + (x_{t-1} - x_t) (shares[m] + low[m]_t factors[m])        x_{-1} is `before`
//
// Shapes  x [B,T,D]; before [B,D]; shares, M of [D]; low [B,T,M,R]; factors [M,R,D]; y, M of [B,T,D]
// Types   x, before, low and factors of one type, bf16 or f32; shares f32; computed in f32 (f64 in
//         the reference) and rounded once; where ATen makes the product, it is rounded on its way
// Source  arXiv:2404.05892
#pragma once
#include <vector>

#include "kernels/shift_mixes/shift_mixes_params.h"
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

struct ShiftMixesInputs {
  Tensor x, before;
  std::vector<Tensor> shares;
  Tensor low, factors;

  /// Calls f(name, tensor) for each tensor that is read.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("x", in.x), f("before", in.before), f("low", in.low), f("factors", in.factors);
    for (auto& share : in.shares)
      f("share", share);
  }
};

// The programs. None checks its arguments or chooses another: src/ops/token_shift.cpp does, and puts
// ATen's form together from a product and the map ShiftMix. Each `takes` reads shapes, types and
// strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool shift_mixes_cpu_takes(const ShiftMixesInputs& in);
std::vector<Tensor> shift_mixes_cpu(const ShiftMixesInputs& in);

/// Our kernel: bf16, kShiftMixes mixes of rank 16, 32 or 64, channels in groups of
/// kShiftMixColumns. No gradient.
bool shift_mixes_cuda_takes(const ShiftMixesInputs& in);
std::vector<Tensor> shift_mixes_cuda(const ShiftMixesInputs& in);

}  // namespace stuffed::kernels
