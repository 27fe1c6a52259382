#pragma once
#include "kernels/short_conv/short_conv.h"
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

using ConvResult = kernels::ShortConvResult;

/// Depthwise causal convolution along T, carried across segments: y_t = act(bias + sum_m
/// weight[:,m] x_{t-(W-1)+m}). The last tap multiplies the current token. Accumulates in f32 and
/// rounds once, after the activation.
///
/// Shapes  x [B,T,C] (any strides); weight [C,W] f32; bias [C] f32 or undefined; columns [B,C,W-1]:
/// the inputs before x
ConvResult short_conv(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& columns, bool silu);

}  // namespace stuffed::ops
