// The short causal convolution: a thread takes four channels of a run of tokens and slides the
// window over it in registers, so that an input is read once and a bit.
#include "kernels/common/channels.cuh"
#include "kernels/short_conv/short_conv_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kThreads = 128;
constexpr int64_t kRun = 16;  // tokens of a thread; the window before them is read again

template <class T, int W>
__global__ void __launch_bounds__(kThreads)
    short_conv_kernel(const __grid_constant__ ShortConvParams p) {
  const int64_t groups = p.channels / kGroup, runs = (p.tokens + kRun - 1) / kRun;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= groups * runs * p.batch)
    return;
  const int64_t c = index % groups * kGroup, run = index / groups % runs, b = index / groups / runs;
  const int64_t begin = run * kRun, end = min(begin + kRun, p.tokens);
  float tap[W][kGroup], bias[kGroup] = {}, window[W][kGroup];  // window: oldest first
#pragma unroll
  for (int m = 0; m < W; ++m)
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
      tap[m][i] = p.weight[(c + i) * W + m];
  if (p.bias)
    load(bias, p.bias + c);
#pragma unroll
  for (int m = 0; m < W - 1; ++m) {
    const int64_t t = begin - (W - 1) + m;
    if (t >= 0) {
      load(window[m], at<T>(p.x, b, t, c));
    } else {
#pragma unroll
      for (int i = 0; i < kGroup; ++i)
        window[m][i] = static_cast<float>(
            static_cast<const T*>(p.columns)[(b * p.channels + c + i) * (W - 1) + W - 1 + t]);
    }
  }
#pragma unroll 4
  for (int64_t t = begin; t < end; ++t) {
    load(window[W - 1], at<T>(p.x, b, t, c));
    float sum[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      sum[i] = bias[i];
#pragma unroll
      for (int m = 0; m < W; ++m)
        sum[i] = fmaf(window[m][i], tap[m][i] * kExact, sum[i]);
      if (p.silu)
        sum[i] = silu(sum[i]);
    }
    store(static_cast<T*>(p.y) + (b * p.tokens + t) * p.channels + c, sum);
#pragma unroll
    for (int m = 0; m < W - 1; ++m)
#pragma unroll
      for (int i = 0; i < kGroup; ++i)
        window[m][i] = window[m + 1][i];
  }
  if (end == p.tokens)
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
#pragma unroll
      for (int m = 0; m < W - 1; ++m)
        static_cast<T*>(p.next)[(b * p.channels + c + i) * (W - 1) + m] = T(window[m][i]);
}

template <class T>
cudaError_t launch(const ShortConvParams& p, cudaStream_t stream) {
  const int64_t threads = p.channels / kGroup * ((p.tokens + kRun - 1) / kRun) * p.batch;
  const int64_t ctas = (threads + kThreads - 1) / kThreads;
  if (p.width == 2)
    short_conv_kernel<T, 2><<<ctas, kThreads, 0, stream>>>(p);
  else if (p.width == 3)
    short_conv_kernel<T, 3><<<ctas, kThreads, 0, stream>>>(p);
  else if (p.width == 4)
    short_conv_kernel<T, 4><<<ctas, kThreads, 0, stream>>>(p);
  else
    return cudaErrorInvalidValue;
  return cudaGetLastError();
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_short_conv(const stuffed::kernels::ShortConvParams* params,
                                      void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return params->is_bf16 ? stuffed::kernels::layer::launch<__nv_bfloat16>(*params, cuda_stream)
                         : stuffed::kernels::layer::launch<float>(*params, cuda_stream);
}
