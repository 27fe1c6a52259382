#include "kernels/common/rows.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/levels.h"

namespace stuffed::kernels {

namespace {

constexpr int64_t kLanes =
    32;  // partial sums, so that a sum is vectorised without reordering by the compiler

STUFFED_INLINE float silu_inline(float x) {
  return x / (1.0F + exp_inline(-x));
}

STUFFED_INLINE void load_bf16(const c10::BFloat16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].x) << 16);
}

STUFFED_INLINE void store_bf16(const float* from, c10::BFloat16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    to[i].x = static_cast<uint16_t>(from[i] != from[i] ? 0x7fc0U : rounded);
  }
}

STUFFED_INLINE void multiply_add(const float* __restrict a,
                                 const float* __restrict b,
                                 float* __restrict sum,
                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    sum[i] += a[i] * b[i];
}

STUFFED_INLINE void multiply_each(const float* __restrict a,
                                  float factor,
                                  float* __restrict x,
                                  int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    x[i] = x[i] * factor * a[i];
}

STUFFED_INLINE void silu_each(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    x[i] = silu_inline(x[i]);
}

STUFFED_INLINE void gate_each(const float* __restrict z, float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    x[i] *= silu_inline(z[i]);
}

STUFFED_INLINE float sum_squares(const float* x, int64_t n) {
  std::array<float, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      sums[static_cast<size_t>(lane)] += x[i + lane] * x[i + lane];
  double sum = 0;
  for (const float partial : sums)
    sum += partial;
  for (; i < n; ++i)
    sum += static_cast<double>(x[i]) * x[i];
  return static_cast<float>(sum);
}

STUFFED_INLINE float log_sum_exp(const float* x, int64_t n) {
  std::array<float, kLanes> partial;
  partial.fill(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float& most = partial[static_cast<size_t>(lane)];
      most = x[i + lane] > most ? x[i + lane] : most;
    }
  float most = *std::max_element(partial.begin(), partial.end());
  for (; i < n; ++i)
    most = std::max(most, x[i]);
  // Everything -inf or something +inf: the shift would make NaN of what has an answer.
  const float shift = std::isfinite(most) ? most : 0.0F;

  partial.fill(0);
  for (i = 0; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      partial[static_cast<size_t>(lane)] += exp_inline(x[i + lane] - shift);
  double sum = 0;
  for (const float part : partial)
    sum += part;
  for (; i < n; ++i)
    sum += exp_inline(x[i] - shift);
  if (!std::isfinite(most))  // exp_inline saturates; NaN still shows in the sum
    return sum != sum ? std::numeric_limits<float>::quiet_NaN() : most;
  return shift + static_cast<float>(std::log(sum));
}

}  // namespace

void load_row(const float* from, float* to, int64_t n) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}
void store_row(const float* from, float* to, int64_t n) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void load_row(const c10::BFloat16* from, float* to, int64_t n) {
  wide<load_bf16>(from, to, n);
}
void store_row(const float* from, c10::BFloat16* to, int64_t n) {
  wide<store_bf16>(from, to, n);
}
void multiply_add_row(const float* a, const float* b, float* sum, int64_t n) {
  wide<multiply_add>(a, b, sum, n);
}
void multiply_row(const float* a, float factor, float* x, int64_t n) {
  wide<multiply_each>(a, factor, x, n);
}
void silu_row(float* x, int64_t n) {
  wide<silu_each>(x, n);
}
void gate_row(const float* z, float* x, int64_t n) {
  wide<gate_each>(z, x, n);
}
float sum_squares_row(const float* x, int64_t n) {
  return wide<sum_squares>(x, n);
}
float log_sum_exp_row(const float* x, int64_t n) {
  return wide<log_sum_exp>(x, n);
}

}  // namespace stuffed::kernels
