// Passes over one row of numbers in f32, on the CPU, in the widest vectors the processor has. Ops
// are put together from them where ATen's own passes, each through all of memory, were measured to
// dominate.
#pragma once
#include <cstdint>

#include <c10/util/BFloat16.h>

namespace stuffed::kernels {

void load_row(const float* from, float* to, int64_t n);
void load_row(const c10::BFloat16* from, float* to, int64_t n);
void store_row(const float* from, float* to, int64_t n);
void store_row(const float* from, c10::BFloat16* to, int64_t n);  // rounds to nearest even

void multiply_add_row(const float* a, const float* b, float* sum, int64_t n);  // sum += a * b
void multiply_row(const float* a, float factor, float* x, int64_t n);          // x *= a * factor
void silu_row(float* x, int64_t n);                                            // x = silu(x)
void gate_row(const float* z, float* x, int64_t n);                            // x *= silu(z)
float sum_squares_row(const float* x, int64_t n);
/// log(sum(exp(x))), NaN if an element is.
float log_sum_exp_row(const float* x, int64_t n);

}  // namespace stuffed::kernels
