// What is done to every channel by itself: gates, activations and the token shift's mix, each read
// once, computed in f32 and rounded once.
#include "kernels/common/channels.cuh"
#include "kernels/map/map_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kThreads = 256;

/// y = free sigmoid(-a) and log(1 - y), each without cancellation: log1p where little is
/// forgotten, else the logarithm of a sum of positive numbers.
__device__ inline float forget_gate(float a, float low, float& log_forget) {
  const float free = 1.f - low, y = free * sigmoid(-a);
  if (y < 0.5f)
    log_forget = log1pf(-y);
  else if (low > 0.f)
    log_forget = logf(low + free * sigmoid(a));
  else
    log_forget = fminf(a, 0.f) - log1pf(expf(-fabsf(a)));
  log_forget = fminf(log_forget, 0.f);
  return y;
}

template <class T, Map kMap>
__global__ void __launch_bounds__(kThreads) map_kernel(const __grid_constant__ MapParams p) {
  constexpr bool kTakesW = kMap == Map::NegativeExp || kMap == Map::Softplus ||
                           kMap == Map::ForgetGate || kMap == Map::StepGates ||
                           kMap == Map::ShiftMix;
  constexpr bool kWritesF32 =
      kMap == Map::NegativeExp || kMap == Map::Softplus || kMap == Map::StepGates;
  const int64_t groups = p.channels / kGroup;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= groups * p.tokens * p.batch)
    return;
  const int64_t c = index % groups * kGroup, row = index / groups, t = row % p.tokens,
                b = row / p.tokens;
  float a[kGroup], other[kGroup] = {}, w[kGroup] = {}, w2[kGroup] = {}, past[kGroup] = {},
                   y[kGroup], log_decay[kGroup] = {};
  load(a, at<T>(p.a, b, t, c));
  if (p.b.data)
    load(other, at<T>(p.b, b, t, c));
  if (kTakesW && p.w)
    load(w, p.w + c);
  if constexpr (kMap == Map::StepGates)
    load(w2, p.w2 + c);
  if constexpr (kMap == Map::ShiftMix)
    load(past, t > 0 ? at<T>(p.a, b, t - 1, c) : at<T>(p.before, b, 0, c));
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if constexpr (kMap == Map::SiluProduct)
      y[i] = silu(a[i]) * other[i];
    else if constexpr (kMap == Map::SigmoidProduct)
      y[i] = sigmoid(a[i]) * other[i];
    else if constexpr (kMap == Map::ReluSquare)
      y[i] = a[i] < 0.f ? 0.f : a[i] * a[i];  // NaN stays
    else if constexpr (kMap == Map::NegativeExp)
      y[i] = -expf(a[i] + w[i]);
    else if constexpr (kMap == Map::Softplus)
      y[i] = softplus(a[i] + w[i]);
    else if constexpr (kMap == Map::ForgetGate)
      y[i] = forget_gate(a[i], w[i], log_decay[i]);
    else if constexpr (kMap == Map::StepGates) {
      const float step = softplus(a[i] + w[i]);
      y[i] = step < p.least ? p.least : step > p.most ? p.most : step;  // NaN stays
      log_decay[i] = -y[i] * expf(w2[i]);
    } else
      y[i] = fmaf(past[i] - a[i], w[i] + other[i], a[i]);
  }
  const int64_t out = row * p.channels + c;
  if constexpr (kWritesF32)
    store(static_cast<float*>(p.y) + out, y);
  else
    store(static_cast<T*>(p.y) + out, y);
  if constexpr (kMap == Map::ForgetGate || kMap == Map::StepGates)
    store(p.log_decay + out, log_decay);
}

template <class T>
cudaError_t launch(const MapParams& p, cudaStream_t stream) {
  const int64_t threads = p.channels / kGroup * p.tokens * p.batch;
  const int64_t ctas = (threads + kThreads - 1) / kThreads;
  const auto queue = [&](auto kernel) { kernel<<<ctas, kThreads, 0, stream>>>(p); };
  switch (p.map) {
    case Map::SiluProduct:
      queue(map_kernel<T, Map::SiluProduct>);
      break;
    case Map::SigmoidProduct:
      queue(map_kernel<T, Map::SigmoidProduct>);
      break;
    case Map::ReluSquare:
      queue(map_kernel<T, Map::ReluSquare>);
      break;
    case Map::NegativeExp:
      queue(map_kernel<T, Map::NegativeExp>);
      break;
    case Map::Softplus:
      queue(map_kernel<T, Map::Softplus>);
      break;
    case Map::ForgetGate:
      queue(map_kernel<T, Map::ForgetGate>);
      break;
    case Map::StepGates:
      queue(map_kernel<T, Map::StepGates>);
      break;
    case Map::ShiftMix:
      queue(map_kernel<T, Map::ShiftMix>);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_map(const stuffed::kernels::MapParams* params, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  return params->is_bf16 ? stuffed::kernels::layer::launch<__nv_bfloat16>(*params, cuda_stream)
                         : stuffed::kernels::layer::launch<float>(*params, cuda_stream);
}
