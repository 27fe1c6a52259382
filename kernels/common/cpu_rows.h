// When an op may take its fused loops over rows on the CPU, and the switch over the types that they
// read and write.
#pragma once
#include <algorithm>
#include <initializer_list>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

/// Whether the fused loops give this op's result: on the CPU, f32 or bf16 with dense rows, no
/// gradient wanted.
inline bool takes_cpu_rows(std::initializer_list<Tensor> rows) {
  for (const Tensor& x : rows) {
    const bool good_type = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
    if (!x.is_cpu() || !good_type || x.dim() == 0 || x.numel() == 0 || x.stride(-1) != 1 ||
        wants_gradient(x))
      return false;
  }
  return true;
}

/// Rows of n elements worth a thread of their own: waking it, on a busy machine, costs more than
/// some microseconds of work.
inline int64_t rows_per_thread(int64_t n) {
  constexpr int64_t kElements = 32768;
  return std::max<int64_t>(1, kElements / n);
}

/// Calls f with a null pointer of the element type.
template <class F>
void with_type(const Tensor& x, const F& f) {
  if (x.scalar_type() == at::kFloat)
    f(static_cast<float*>(nullptr));
  else
    f(static_cast<at::BFloat16*>(nullptr));
}

}  // namespace stuffed::kernels
