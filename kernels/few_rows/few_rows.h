// A few rows times a matrix of packed weights: decoding, where each weight is read from memory once
// and that takes most of the time. The contract, and the programs that compute it.
//
//   y[r,o] = bias[o] + sum_i x[r,i] weight[o,i]
//
// Shapes  x [...,in], dense, at most kFewRows rows; bias [out] or undefined; y [...,out]
// Types   x, weights and y of one type, bf16 or f32; bias f32; summed in f32 (f64 in the reference),
//         rounded once
#pragma once
#include <cstdint>
#include <span>

#include <c10/util/BFloat16.h>

#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

constexpr int64_t kBlockOutputs = 64;

/// From so many rows on oneDNN's own kernels are as fast in bf16; in f32 they are not yet.
constexpr int64_t kFewRows = 8;

/// Weights [out,in] as blocks of 64 outputs that lie side by side, one input after the other in
/// f32: [blocks, padded_in, 64]; in pairs of inputs in bf16: [blocks, padded_in / 2, 64, 2]. What
/// is behind `in` are zeros.
struct BlockedWeights {
  const void* data = nullptr;  // null: there are none
  bool is_bf16 = false;
  int64_t out = 0, in = 0, padded_in = 0;

  int64_t blocks() const { return (out + kBlockOutputs - 1) / kBlockOutputs; }
  int64_t block_elements() const { return padded_in * kBlockOutputs; }
};

struct FewRowsInputs {
  Tensor x;
  BlockedWeights blocks = {};  // none where the layout of `packed` is not known
  Tensor owner = {};           // of the blocks' memory, if nobody else keeps it
  Tensor packed = {};          // the same weights as oneDNN packed them, or undefined
  Tensor bias = {};

  /// Calls f(name, tensor) for each tensor that may be converted, and may be undefined.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("x", in.x), f("bias", in.bias);
  }
};

// The programs. None checks its arguments or chooses another: src/ops/linear.cpp does. Each `takes`
// reads shapes and types, but no data.

/// The specification: plain loops over the blocks in f64. Slow.
bool few_rows_cpu_takes(const FewRowsInputs& in);
Tensor few_rows_cpu(const FewRowsInputs& in);

/// Each thread reads some blocks from start to end, and fetches ahead. A row's sums depend on no
/// other row and not on their number.
bool few_rows_fast_takes(const FewRowsInputs& in);
Tensor few_rows_fast(const FewRowsInputs& in);

/// oneDNN's product with `packed`, of any number of rows.
bool few_rows_aten_takes(const FewRowsInputs& in);
Tensor few_rows_aten(const FewRowsInputs& in);

/// The product with one block, compiled for one level of the instruction set: x [rows,padded_in]
/// -> sums [rows,64], in f32.
struct FewRowsOps {
  void (*f32)(const float* block, int64_t padded_in, const float* x, int64_t rows, float* sums);
  void (*bf16)(
      const c10::BFloat16* block, int64_t padded_in, const float* x, int64_t rows, float* sums);
};

/// Those this processor can run, the fastest first; at least one.
std::span<const FewRowsOps> few_rows_ops();

/// Whether block `index` holds exactly the weights of `plain` [out,in], of the same type, and zeros
/// behind `in`.
bool block_holds(const BlockedWeights& weights, int64_t index, const void* plain);

}  // namespace stuffed::kernels
