// The short convolution on the CPU in one pass over memory.
#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/short_conv/short_conv.h"

namespace stuffed::kernels {

namespace {

/// Tokens [begin, end) of one sequence, one row at a time: the last W inputs stay in f32 in a ring.
template <class T>
void convolve(const Tensor& x,
              const Tensor& taps,
              const Tensor& bias,
              const Tensor& before,
              bool silu,
              int64_t begin,
              int64_t end,
              Tensor& y) {
  const int64_t C = x.size(1), W = taps.size(0);
  std::vector<float> ring(static_cast<size_t>(W * C)), sum(static_cast<size_t>(C));
  const auto slot = [&](int64_t t) { return ring.data() + (t + W) % W * C; };
  const auto load = [&](int64_t t) {
    if (t < 0)
      load_row(before.const_data_ptr<float>() + (t + W - 1) * C, slot(t), C);
    else
      load_row(x.const_data_ptr<T>() + t * x.stride(0), slot(t), C);
  };
  for (int64_t t = begin - W + 1; t < begin; ++t)
    load(t);
  for (int64_t t = begin; t < end; ++t) {
    load(t);
    load_row(bias.const_data_ptr<float>(), sum.data(), C);
    for (int64_t tap = 0; tap < W; ++tap)
      multiply_add_row(slot(t - W + 1 + tap), taps.const_data_ptr<float>() + tap * C, sum.data(),
                       C);
    if (silu)
      silu_row(sum.data(), C);
    store_row(sum.data(), y.data_ptr<T>() + t * C, C);
  }
}

/// One token of one sequence: the window is `columns` [C,W-1] and x [C], and moves on by one.
template <class T>
void convolve_token(const T* x,
                    const float* taps,  // [C,W]
                    const float* bias,  // [C] or null
                    const T* columns,
                    bool silu,
                    int64_t C,
                    int64_t W,
                    T* y,
                    T* next) {
  std::vector<float> sum(static_cast<size_t>(C));
  for (int64_t c = 0; c < C; ++c) {
    float s = bias ? bias[c] : 0;
    for (int64_t m = 0; m < W - 1; ++m)
      s += static_cast<float>(columns[c * (W - 1) + m]) * taps[c * W + m];
    sum[static_cast<size_t>(c)] = s + static_cast<float>(x[c]) * taps[c * W + W - 1];
    for (int64_t m = 0; m + 1 < W - 1; ++m)
      next[c * (W - 1) + m] = columns[c * (W - 1) + m + 1];
    if (W > 1)
      next[c * (W - 1) + W - 2] = x[c];
  }
  if (silu)
    silu_row(sum.data(), C);
  store_row(sum.data(), y, C);
}

/// x [B,1,C]: decoding, where arranging the window would cost more than the window.
ShortConvResult convolve_one_token(const ShortConvInputs& in) {
  const Tensor &x = in.x, &weight = in.weight, &bias = in.bias, &columns = in.columns;
  const bool silu = in.silu;
  const int64_t B = x.size(0), C = x.size(2), W = weight.size(1);
  const ShortConvResult out{at::empty({B, 1, C}, x.options()),
                            at::empty({B, C, W - 1}, x.options())};
  with_type(x, [&]<class T>(T*) {
    at::parallel_for(0, B, rows_per_thread(C), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        convolve_token<T>(x.const_data_ptr<T>() + b * x.stride(0), weight.const_data_ptr<float>(),
                          bias.defined() ? bias.const_data_ptr<float>() : nullptr,
                          columns.const_data_ptr<T>() + b * C * (W - 1), silu, C, W,
                          out.y.mutable_data_ptr<T>() + b * C,
                          out.columns.mutable_data_ptr<T>() + b * C * (W - 1));
    });
  });
  return out;
}

ShortConvResult convolve_rows(const ShortConvInputs& in) {
  const Tensor &x = in.x, &weight = in.weight, &bias = in.bias, &columns = in.columns;
  const bool silu = in.silu;
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2), W = weight.size(1);
  const Tensor taps = weight.t().contiguous();
  const Tensor offset = bias.defined() ? bias.contiguous() : at::zeros({C}, weight.options());
  Tensor y = at::empty({B, T, C}, x.options());
  Tensor last = at::cat({columns.transpose(1, 2).to(x.scalar_type()),
                         x.narrow(1, std::max<int64_t>(0, T - W + 1), std::min(T, W - 1))},
                        1);
  last = last.narrow(1, last.size(1) - W + 1, W - 1).transpose(1, 2);
  for (int64_t b = 0; b < B; ++b) {
    const Tensor row = x[b], before = columns[b].t().to(at::kFloat).contiguous();
    Tensor out = y[b];
    at::parallel_for(0, T, std::max<int64_t>(64, rows_per_thread(C)),
                     [&](int64_t begin, int64_t end) {
                       with_type(x, [&]<class E>(E*) {
                         convolve<E>(row, taps, offset, before, silu, begin, end, out);
                       });
                     });
  }
  return {y, last.clone(at::MemoryFormat::Contiguous)};
}

}  // namespace

bool short_conv_fast_takes(const ShortConvInputs& in) {
  return !wants_gradient(in.weight) && !wants_gradient(in.columns) && !wants_gradient(in.bias) &&
         in.weight.scalar_type() == at::kFloat && takes_cpu_rows({in.x});
}

ShortConvResult short_conv_fast(const ShortConvInputs& in) {
  const bool is_dense = in.columns.is_contiguous() && in.weight.is_contiguous() &&
                        (!in.bias.defined() || in.bias.is_contiguous());
  const bool same_type = in.columns.scalar_type() == in.x.scalar_type();
  return in.x.size(1) == 1 && same_type && is_dense ? convolve_one_token(in) : convolve_rows(in);
}

}  // namespace stuffed::kernels
