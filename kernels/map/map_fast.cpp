// Step gates of a few tokens in one loop on the CPU.
#include <cmath>

#include <ATen/ATen.h>

#include "kernels/common/cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/map/map.h"

namespace stuffed::kernels {

namespace {

// Where a loop on one thread is sooner done than ATen's operators are called.
constexpr int64_t kLoopTokens = 8;

bool is_plain_parameter(const Tensor& x) {  // f32 without a gradient
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous() && !wants_gradient(x);
}

float softplus_of(float x) {
  return x > 20.0F ? x : std::log1p(std::exp(x));  // the border is ATen's
}

}  // namespace

bool map_fast_takes(const MapInputs& in) {
  return in.map == Map::StepGates && in.a.dim() == 3 && in.a.size(0) <= 1 &&
         in.a.size(1) <= kLoopTokens && takes_cpu_rows({in.a}) && is_plain_parameter(in.w) &&
         is_plain_parameter(in.w2);
}

MapResult map_fast(const MapInputs& in) {
  const int64_t tokens = in.a.size(1), H = in.a.size(2);
  const MapResult out{at::empty({1, tokens, H}, in.w.options()),
                      at::empty({1, tokens, H}, in.w.options())};
  const float* const bias = in.w.const_data_ptr<float>();
  const float* const a_log = in.w2.const_data_ptr<float>();
  const auto low = static_cast<float>(in.least), high = static_cast<float>(in.most);
  with_type(in.a, [&]<class T>(T*) {
    for (int64_t t = 0; t < tokens; ++t) {
      float* const dt = out.y.mutable_data_ptr<float>() + t * H;
      float* const log_decay = out.log_decay.mutable_data_ptr<float>() + t * H;
      load_row(in.a.const_data_ptr<T>() + t * in.a.stride(1), dt, H);
      for (int64_t h = 0; h < H; ++h) {
        const float step = softplus_of(dt[h] + bias[h]);
        dt[h] = step < low ? low : step > high ? high : step;  // NaN stays
        log_decay[h] = dt[h] * -std::exp(a_log[h]);
      }
    }
  });
  return out;
}

}  // namespace stuffed::kernels
