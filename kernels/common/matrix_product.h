#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// a [...,m,k] times b [...,k,n] or [k,n], leading sizes broadcast, as at::matmul. On a CPU, in f32 and
/// f64 and where no gradient is wanted, the number of threads changes no bit of it.
Tensor matrix_product(const Tensor& a, const Tensor& b);

}  // namespace stuffed::kernels
