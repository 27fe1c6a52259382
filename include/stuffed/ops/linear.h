#pragma once
#include "kernels/few_rows/few_rows.h"
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

/// A weight matrix and, once packed, its copy in the layout the CPU's matrix library multiplies
/// fastest.
struct Linear {
  Tensor weight;                   // [out, in]; undefined after pack(drop=true)
  Tensor bias;                     // [out], or undefined
  Tensor packed;                   // oneDNN layout; undefined until pack()
  kernels::BlockedWeights blocks;  // what `packed` holds, if its layout is known; else none

  int64_t in_features() const;
  int64_t out_features() const;
  /// CPU inference only: prepacks the weight (a later change of `weight` is not seen). With `drop`
  /// the plain copy is let go, so that packing costs no memory in the end. A no-op on other devices
  /// and types.
  void pack(bool drop);

  int64_t in = 0, out = 0;  // kept for packed weights; set by pack()
};

/// x [...,in] -> [...,out] in x's dtype. A weight of another dtype is cast (so f32 master weights
/// train in bf16).
Tensor linear(const Tensor& x, const Linear& layer);

}  // namespace stuffed::ops
