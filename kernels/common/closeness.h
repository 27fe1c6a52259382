// How far two results are apart: the RMS of the error over the RMS of the reference.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// RMS(actual - expected) / RMS(expected), in f64 on the device of `actual`. 0 for two empty
/// tensors or if both are zero; infinite if a shape differs or one is not finite where the other
/// is.
double relative_rms(const Tensor& actual, const Tensor& expected);

/// The same for each head by itself, the worst of them: [B,T,H,V] over T and V with `axes` {1, 3},
/// [B,H,K,V] over K and V with {2, 3}.
double worst_relative_rms(const Tensor& actual, const Tensor& expected, at::IntArrayRef axes);

/// worst_relative_rms() of y [B,T,H,V] a head. A head that shows fewer than 16 numbers (a few
/// tokens of Mamba-1, whose heads are single columns) is taken together with the others of its
/// sequence: one sum that happens to cancel has no relative error worth a name.
double worst_output_rms(const Tensor& actual, const Tensor& expected);

}  // namespace stuffed::kernels
