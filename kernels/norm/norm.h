// Normalisations of rows: the contract, and the programs that compute it.
//
//   s = x + skip * skip_weight                    without a skip: x
//   u = s * silu(gate)                            if gate_first; else s
//   n = (u - mean) / sqrt(mean of (u - mean)^2 + eps) * weight + bias
//                                                 over each of `parts` equal parts of a row;
//                                                 mean = 0 unless `centre`; no weight: n = u
//   y = n * silu(gate)                            with a gate that is not first; else n
//
// Shapes  as in NormInputs; any leading axes, [...,D]
// Types   x, gate and skip of one type, bf16 or f32; parameters f32; all computed in f32 (f64 in the
//         reference) and rounded once
// Cost    one pass over memory, but for ATen's form
#pragma once
#include <optional>

#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

struct NormInputs {
  Tensor x, gate = {}, skip = {};  // [...,D]; gate and skip may be undefined
  Tensor weight = {}, bias = {};   // [D]; undefined: absent
  Tensor skip_weight = {};         // [D], or [H] for D/H channels each
  int64_t parts = 1;
  bool centre = false, gate_first = false;
  double eps = 0;
  std::optional<at::ScalarType> out = {};  // y's type, if it is not x's
  /// Where the CPU's loops may write y: dense, of y's shape and type. It may be x itself.
  Tensor to = {};

  /// Calls f(name, tensor) for each tensor that is read, and may be undefined.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("x", in.x), f("gate", in.gate), f("skip", in.skip);
    f("weight", in.weight), f("bias", in.bias), f("skip_weight", in.skip_weight);
  }
};

// The programs. None checks its arguments or chooses another: src/ops/norms.cpp does. Each `takes`
// reads shapes, types and strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool norm_cpu_takes(const NormInputs& in);
Tensor norm_cpu(const NormInputs& in);

/// RMS norms on the CPU: a row is read whole, worked on in the widest vectors there are, and
/// written once. No gradient.
bool norm_fast_takes(const NormInputs& in);
Tensor norm_fast(const NormInputs& in);

/// ATen's operators: any device, differentiable.
bool norm_aten_takes(const NormInputs& in);
Tensor norm_aten(const NormInputs& in);

/// Our kernel: parts of at most kWidestNorm channels, in groups of kLayerChannels. No gradient.
bool norm_cuda_takes(const NormInputs& in);
Tensor norm_cuda(const NormInputs& in);

}  // namespace stuffed::kernels
