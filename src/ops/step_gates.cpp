#include "stuffed/ops/step_gates.h"

#include <cmath>

#include <ATen/ATen.h>

#include "cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/layer/layer_cuda.h"
#include "stuffed/core/gradient.h"
#include "stuffed/ops/activations.h"

namespace stuffed::ops {

namespace {

// Where a loop on one thread is sooner done than ATen's operators are called.
constexpr int64_t kFewTokens = 8;

bool is_plain(const Tensor& x) {  // f32 without a gradient
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous() && !wants_gradient(x);
}

float softplus(float x) {
  return x > 20.0F ? x : std::log1p(std::exp(x));  // the border is ATen's
}

}  // namespace

StepGates step_gates(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most) {
  if (kernels::layer_cuda_takes({raw}) && kernels::layer_cuda_takes_parameters({bias, a_log})) {
    const auto [dt, log_decay] = kernels::step_gates_cuda(raw, bias, a_log, least, most);
    return {dt, log_decay};
  }
  const int64_t rows = raw.size(0) * raw.size(1), H = raw.size(2);
  if (rows > kFewTokens || raw.size(0) > 1 || !takes_cpu_rows({raw}) || !is_plain(bias) ||
      !is_plain(a_log)) {
    const Tensor dt = ops::softplus(raw.to(at::kFloat), bias).clamp(least, most);
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

}  // namespace stuffed::ops
