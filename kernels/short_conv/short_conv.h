// The depthwise causal convolution along T, carried across segments: the contract, and the programs
// that compute it.
//
//   y_t = act(bias + sum_m weight[:,m] x_{t-(W-1)+m})     the last tap multiplies the current token
//
// Shapes  as in ShortConvInputs; any T
// Types   x and columns of one type, bf16 or f32; weight, bias f32; summed in f32 (f64 in the
//         reference), rounded once, after the activation
#pragma once
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

struct ShortConvInputs {
  Tensor x;          // [B,T,C], any strides
  Tensor weight;     // [C,W]
  Tensor bias = {};  // [C] or undefined
  Tensor columns;    // [B,C,W-1]: the inputs before x, newest last
  bool silu = false;

  /// Calls f(name, tensor) for each tensor that is read, and may be undefined.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("x", in.x), f("weight", in.weight), f("bias", in.bias), f("columns", in.columns);
  }
};

struct ShortConvResult {
  Tensor y;        // [B,T,C], x's type
  Tensor columns;  // [B,C,W-1], x's type, newest last, freshly allocated

  std::vector<Tensor> tensors() const { return {y, columns}; }
};

// The programs. None checks its arguments or chooses another: src/ops/short_conv.cpp does. Each
// `takes` reads shapes, types and strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool short_conv_cpu_takes(const ShortConvInputs& in);
ShortConvResult short_conv_cpu(const ShortConvInputs& in);

/// Rows on the CPU, the window in f32 in a ring; one token in one loop. No gradient.
bool short_conv_fast_takes(const ShortConvInputs& in);
ShortConvResult short_conv_fast(const ShortConvInputs& in);

/// ATen's operators: any device, differentiable.
bool short_conv_aten_takes(const ShortConvInputs& in);
ShortConvResult short_conv_aten(const ShortConvInputs& in);

/// Our kernel: 2 to 4 taps, channels in groups of kLayerChannels. No gradient.
bool short_conv_cuda_takes(const ShortConvInputs& in);
ShortConvResult short_conv_cuda(const ShortConvInputs& in);

}  // namespace stuffed::kernels
