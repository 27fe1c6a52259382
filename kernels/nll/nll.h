// Losses of rows of logits: the contract, and the programs that compute it.
//
//   nll[i] = log(sum over c < vocab of exp(logits[i,c])) - logits[i,targets[i]]
//
// Shapes  logits [n,V], rows of any stride; targets [n] in [0, vocab); vocab <= V: columns at and
//         beyond it do not exist; nll [n]
// Types   logits bf16 or f32; targets int64; nll in nats, f32 (f64 of f64 logits, in tests)
// Infinite logits are what they are: one +inf makes the sum infinite, NaN makes it NaN.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

struct NllInputs {
  Tensor logits, targets;
  int64_t vocab = 0;

  /// Calls f(name, tensor) for each tensor that is read.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("logits", in.logits), f("targets", in.targets);
  }
};

// The programs. None checks its arguments or chooses another: src/ops/linear_cross_entropy.cpp does.
// Each `takes` reads shapes, types and strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool nll_cpu_takes(const NllInputs& in);
Tensor nll_cpu(const NllInputs& in);

/// On the CPU straight from the logits, without an f32 copy or a matrix of exponentials. No
/// gradient.
bool nll_fast_takes(const NllInputs& in);
Tensor nll_fast(const NllInputs& in);

/// ATen's operators: any device, differentiable.
bool nll_aten_takes(const NllInputs& in);
Tensor nll_aten(const NllInputs& in);

/// Our kernel: a row is read once. No gradient.
bool nll_cuda_takes(const NllInputs& in);
Tensor nll_cuda(const NllInputs& in);

}  // namespace stuffed::kernels
