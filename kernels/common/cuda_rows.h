// Which tensors the CUDA kernels of a layer's operations read, and how they are told of them.
#pragma once
#include <initializer_list>

#include "kernels/common/channels.h"
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// Whether the kernels read these activations: on a GPU this build has kernels for, all f32 or all
/// bf16, [B,T,C] or anything that is dense, channels in aligned groups of four, no gradient wanted.
/// Undefined ones after the first are absent.
bool takes_cuda_rows(std::initializer_list<Tensor> activations);

/// Whether a kernel reads these parameters (undefined: absent): dense f32 on a GPU, no gradient
/// wanted.
bool takes_cuda_parameters(std::initializer_list<Tensor> parameters);

/// Batch, tokens and channels of an activation: [B,T,C], or dense with all but the last axis as
/// tokens.
struct RowsShape {
  int64_t batch, tokens, channels;
};
RowsShape rows_shape(const Tensor& x);

Rows rows_of(const Tensor& x);            // null if undefined
const float* floats_of(const Tensor& x);  // null if undefined

}  // namespace stuffed::kernels
