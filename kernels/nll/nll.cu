// The loss of one row of logits, in one pass: every thread keeps the largest logit it has met and
// the sum of exponentials relative to it.
#include "kernels/common/channels.cuh"
#include "kernels/nll/nll_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;

/// sum of exp(x) = sum * exp(most). `most` is finite or, if nothing finite was met, -inf or +inf.
struct LogSum {
  float most, sum;
};

/// What to subtract: an infinite maximum would make NaN of what has an answer.
__device__ inline float shift_of(float most) {
  return isinf(most) ? 0.f : most;
}

__device__ inline LogSum join(LogSum a, LogSum b) {
  const float most = fmaxf(a.most, b.most), shift = shift_of(most);
  // A side without a finite number has a sum of 0 or of infinity, which no factor may change.
  const auto part = [&](LogSum x) { return isinf(x.most) ? x.sum : x.sum * expf(x.most - shift); };
  return {most, part(a) + part(b)};
}

template <class T>
__global__ void __launch_bounds__(kThreads) nll_kernel(const __grid_constant__ NllParams p) {
  __shared__ LogSum parts[kWarps];
  const T* row = static_cast<const T*>(p.logits) + static_cast<int64_t>(blockIdx.x) * p.stride;
  LogSum all{-INFINITY, 0.f};
  const auto add = [&](const float(&x)[kGroup]) {
    const float most = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), shift = shift_of(most);
    all = join(all, {most, (expf(x[0] - shift) + expf(x[1] - shift)) +
                               (expf(x[2] - shift) + expf(x[3] - shift))});
  };
  const bool aligned = reinterpret_cast<uintptr_t>(row) % (kGroup * sizeof(T)) == 0;
  const int64_t whole = aligned ? p.vocab / kGroup * kGroup : 0;
  for (int64_t c = threadIdx.x * kGroup; c < whole; c += kThreads * kGroup) {
    float x[kGroup];
    load(x, row + c);
    add(x);
  }
  for (int64_t c = whole + threadIdx.x; c < p.vocab; c += kThreads) {
    const float x[kGroup] = {static_cast<float>(row[c]), -INFINITY, -INFINITY, -INFINITY};
    add(x);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    all = join(all, {__shfl_xor_sync(0xffffffffu, all.most, step),
                     __shfl_xor_sync(0xffffffffu, all.sum, step)});
  if (threadIdx.x % 32 == 0)
    parts[threadIdx.x / 32] = all;
  __syncthreads();
  if (threadIdx.x > 0)
    return;
  all = parts[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp)
    all = join(all, parts[warp]);
  const float target = static_cast<float>(row[p.targets[blockIdx.x]]);
  p.nll[blockIdx.x] = shift_of(all.most) + logf(all.sum) - target;
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_nll(const stuffed::kernels::NllParams* params, void* stream) {
  using namespace stuffed::kernels::layer;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (params->is_bf16)
    nll_kernel<__nv_bfloat16><<<params->rows, kThreads, 0, cuda_stream>>>(*params);
  else
    nll_kernel<float><<<params->rows, kThreads, 0, cuda_stream>>>(*params);
  return cudaGetLastError();
}
