// Normalisation of parts of rows. A team of threads holds one part in registers: it is read once
// with its gate and skip, and written once.
#include "kernels/common/channels.cuh"
#include "kernels/norm/norm_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kThreads = 256;

/// The sum over the `kTeam` threads of a team, the same bits in each. `scratch` is not reused
/// within a kernel: a second sum takes its own.
template <int kTeam>
__device__ inline float team_sum(float x, float* scratch) {
  x = warp_sum < kTeam < 32 ? kTeam : 32 > (x);
  if constexpr (kTeam > 32) {
    if (threadIdx.x % 32 == 0)
      scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
#pragma unroll
    for (int warp = 0; warp < kTeam / 32; ++warp)
      x += scratch[warp];
  }
  return x;
}

template <int kChunks, class F>
__device__ inline float sum_of(const float (&x)[kChunks][kGroup], const F& f) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kChunks; ++j)
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
      sum += f(x[j][i]);
  return sum;
}

template <class In, class Out, int kTeam, int kChunks>
__global__ void __launch_bounds__(kThreads) norm_kernel(const __grid_constant__ NormParams p) {
  static_assert(kTeam <= 32 || kTeam == kThreads, "a team's sum is in one warp or in the CTA");
  __shared__ float scratch[2][kThreads / 32];
  const int lane = threadIdx.x % kTeam;
  const int64_t part = static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  const int64_t row = part / p.parts, b = row / p.tokens, t = row % p.tokens;
  const int64_t first = part % p.parts * p.width;  // the part's first channel in its row
  const bool is_part = row < p.batch * p.tokens;   // lanes without one still take part in sums
  const auto channel = [&](int j) { return (j * kTeam + lane) * kGroup; };  // within the part
  const auto has = [&](int j) { return is_part && channel(j) < p.width; };

  float x[kChunks][kGroup] = {};
  const auto apply_gate = [&] {
#pragma unroll
    for (int j = 0; j < kChunks; ++j)
      if (has(j)) {
        float gate[kGroup];
        load(gate, at<In>(p.gate, b, t, first + channel(j)));
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
          x[j][i] *= silu(gate[i]);
      }
  };
#pragma unroll
  for (int j = 0; j < kChunks; ++j)
    if (has(j)) {
      const int64_t c = first + channel(j);
      load(x[j], at<In>(p.x, b, t, c));
      if (p.skip.data) {
        float past[kGroup];
        load(past, at<In>(p.skip, b, t, c));
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
          x[j][i] = fmaf(past[i], p.skip_weight[(c + i) / p.skip_width], x[j][i]);
      }
    }
  if (p.gate.data && p.gate_first)
    apply_gate();

  if (p.weight) {
    const float count = static_cast<float>(p.width);
    float mean = 0;
    if (p.centre) {
      mean = team_sum<kTeam>(sum_of(x, [](float v) { return v; }), scratch[0]) / count;
#pragma unroll
      for (int j = 0; j < kChunks; ++j)
        if (has(j))  // elsewhere zeros stay zeros
#pragma unroll
          for (int i = 0; i < kGroup; ++i)
            x[j][i] -= mean;
    }
    const float squares = team_sum<kTeam>(sum_of(x, [](float v) { return v * v; }), scratch[1]);
    const float factor = kExact / sqrtf(squares / count + p.eps);
#pragma unroll
    for (int j = 0; j < kChunks; ++j)
      if (has(j)) {
        float weight[kGroup], bias[kGroup] = {};
        load(weight, p.weight + first + channel(j));
        if (p.bias)
          load(bias, p.bias + first + channel(j));
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
          x[j][i] = fmaf(x[j][i] * factor, weight[i], bias[i]);
      }
  }
  if (p.gate.data && !p.gate_first)
    apply_gate();
#pragma unroll
  for (int j = 0; j < kChunks; ++j)
    if (has(j))
      store(static_cast<Out*>(p.y) + row * p.parts * p.width + first + channel(j), x[j]);
}

template <class In, class Out, int kTeam, int kChunks>
cudaError_t launch(const NormParams& p, cudaStream_t stream) {
  constexpr int kTeams = kThreads / kTeam;
  const int64_t ctas = (p.batch * p.tokens * p.parts + kTeams - 1) / kTeams;
  norm_kernel<In, Out, kTeam, kChunks><<<ctas, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

template <class In, class Out>
cudaError_t launch(const NormParams& p, cudaStream_t stream) {
  if (p.width <= 64)
    return launch<In, Out, 16, 1>(p, stream);
  if (p.width <= 512)
    return launch<In, Out, 32, 4>(p, stream);
  if (p.width <= 2048)
    return launch<In, Out, 256, 2>(p, stream);
  if (p.width <= 4096)
    return launch<In, Out, 256, 4>(p, stream);
  if (p.width <= kWidestNorm)
    return launch<In, Out, 256, 8>(p, stream);
  return cudaErrorInvalidValue;
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_norm(const stuffed::kernels::NormParams* params, void* stream) {
  using stuffed::kernels::layer::launch;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (params->is_bf16)
    return params->y_bf16 ? launch<__nv_bfloat16, __nv_bfloat16>(*params, cuda_stream)
                          : launch<__nv_bfloat16, float>(*params, cuda_stream);
  return params->y_bf16 ? launch<float, __nv_bfloat16>(*params, cuda_stream)
                        : launch<float, float>(*params, cuda_stream);
}
