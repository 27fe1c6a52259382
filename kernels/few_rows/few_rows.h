// A few rows times a matrix of weights: decoding, where each weight is read from memory once and
// that takes most of the time. No Torch.
#pragma once
#include <cstdint>
#include <span>

#include <c10/util/BFloat16.h>

namespace stuffed::kernels {

constexpr int64_t kBlockOutputs = 64;

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

/// The product with one block, compiled for one level of the instruction set: x [rows,padded_in]
/// -> sums [rows,64], in f32. A row's sums depend on no other row and not on their number.
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
