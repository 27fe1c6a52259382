#include "stuffed/ops/step_gates.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/common/wide.h"

namespace stuffed::ops {

namespace {

// Where a loop on one thread is sooner done than ATen's operators are called.
constexpr int64_t kFewTokens = 8;

bool is_plain(const Tensor& x) {  // f32 without a gradient
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous() &&
         !(at::GradMode::is_enabled() && x.requires_grad());
}

STUFFED_WIDE void add_scaled(float* __restrict sum,
                             const float* __restrict x,
                             float factor,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    sum[i] += x[i] * factor;
}

float softplus(float x) {
  return x > 20.0F ? x : std::log1p(std::exp(x));  // the border is ATen's
}

}  // namespace

StepGates step_gates(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most) {
  const int64_t rows = raw.size(0) * raw.size(1), H = raw.size(2);
  if (rows > kFewTokens || raw.size(0) > 1 || !takes_cpu_rows({raw}) || !is_plain(bias) ||
      !is_plain(a_log)) {
    const Tensor dt = at::softplus(raw.to(at::kFloat) + bias).clamp(least, most);
    return {dt, dt * -a_log.exp()};
  }
  const StepGates out{at::empty({1, rows, H}, bias.options()),
                      at::empty({1, rows, H}, bias.options())};
  const float* const b = bias.const_data_ptr<float>();
  const float* const a = a_log.const_data_ptr<float>();
  const auto low = static_cast<float>(least), high = static_cast<float>(most);
  with_type(raw, [&]<class T>(T*) {
    for (int64_t t = 0; t < rows; ++t) {
      float* const dt = out.dt.mutable_data_ptr<float>() + t * H;
      float* const log_decay = out.log_decay.mutable_data_ptr<float>() + t * H;
      kernels::load_row(raw.const_data_ptr<T>() + t * raw.stride(1), dt, H);
      for (int64_t h = 0; h < H; ++h) {
        const float step = softplus(dt[h] + b[h]);
        dt[h] = step < low ? low : step > high ? high : step;  // NaN stays
        log_decay[h] = dt[h] * -std::exp(a[h]);
      }
    }
  });
  return out;
}

Tensor add_skip(const Tensor& y, const Tensor& x, const Tensor& skip, at::ScalarType out) {
  const int64_t H = y.size(2), V = y.size(3);
  const bool few = y.size(0) == 1 && y.size(1) <= kFewTokens;
  if (!few || !takes_cpu_rows({y, x}) || !y.is_contiguous() || x.stride(2) != V ||
      !is_plain(skip) || (out != at::kFloat && out != at::kBFloat16) ||
      x.scalar_type() != y.scalar_type())
    return (y + x * skip).to(out).flatten(-2);
  const int64_t width = skip.size(1);
  const Tensor sum = at::empty({1, y.size(1), H * V}, y.options().dtype(out));
  std::vector<float> row(static_cast<size_t>(2 * H * V));
  float* const value = row.data();
  float* const input = value + H * V;
  const float* const d = skip.const_data_ptr<float>();
  for (int64_t t = 0; t < y.size(1); ++t) {
    with_type(y, [&]<class T>(T*) {
      kernels::load_row(y.const_data_ptr<T>() + t * H * V, value, H * V);
      kernels::load_row(x.const_data_ptr<T>() + t * x.stride(1), input, H * V);
    });
    for (int64_t h = 0; h < H; ++h)
      if (width == 1)
        add_scaled(value + h * V, input + h * V, d[h], V);
      else
        kernels::multiply_add_row(input + h * V, d + h * V, value + h * V, V);
    with_type(sum, [&]<class T>(T*) {
      kernels::store_row(value, sum.mutable_data_ptr<T>() + t * H * V, H * V);
    });
  }
  return sum;
}

}  // namespace stuffed::ops
