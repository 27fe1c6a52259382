// RWKV-7 between its projections and its recurrence, and after that. A team of threads holds a
// head's channels of a token in registers: everything is read once and written once.
#include "kernels/common/channels.cuh"
#include "kernels/delta_rule/delta_rule_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kThreads = 256;
constexpr float kDecayScale = -0.606531f;
constexpr float kShortest = 1e-12f;  // what a direction's norm is at least

/// A thread's place: four channels of a head of a token.
template <int kTeam>
struct Place {
  __device__ inline explicit Place(const DeltaRuleParams& p) {
    const int lane = threadIdx.x % kTeam;
    const int64_t part =
        static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
    row = part / p.heads;
    head = part % p.heads;
    b = row / p.tokens;
    t = row % p.tokens;
    c = head * p.width + lane * kGroup;
    is_first = lane == 0;
    has = row < p.batch * p.tokens && lane * kGroup < p.width;
  }
  template <class T>
  __device__ inline void load(float (&x)[kGroup], const Rows& from) const {
    if (has)
      layer::load(x, at<T>(from, b, t, c));
  }
  __device__ inline void load(float (&x)[kGroup], const float* parameter) const {
    if (has)
      layer::load(x, parameter + c);
  }
  template <class T>
  __device__ inline void store(void* to, const float (&x)[kGroup], int64_t channels) const {
    if (has)
      layer::store(static_cast<T*>(to) + row * channels + c, x);
  }

  int64_t row, head, b, t, c;
  bool is_first, has;  // lanes without channels still take part in sums
};

template <class F>
__device__ inline float sum_of(const F& f) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    sum += f(i);
  return sum;
}

template <class T, int kTeam>
__global__ void __launch_bounds__(kThreads)
    gates_kernel(const __grid_constant__ DeltaRuleParams p) {
  const Place<kTeam> at(p);
  const int64_t channels = p.heads * p.width;
  float key[kGroup] = {}, read[kGroup] = {}, rate[kGroup] = {}, query[kGroup] = {}, x[kGroup] = {},
        w[kGroup] = {};
  at.template load<T>(key, p.key);
  at.template load<T>(query, p.query);
  at.load(w, p.read_scale);
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    read[i] = key[i] * w[i];
  const float norm = sqrtf(warp_sum<kTeam>(sum_of([&](int i) { return read[i] * read[i]; })));
  const float scale = kExact / (norm < kShortest ? kShortest : norm);  // NaN stays

  at.template load<T>(rate, p.rate);
  at.load(w, p.rate_base);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    rate[i] = sigmoid(rate[i] + w[i]);
    read[i] *= scale;
    x[i] = read[i] * rate[i];
  }
  at.template store<T>(p.read_out, read, channels);
  at.template store<T>(p.write_out, x, channels);

  at.load(w, p.rate_scale);
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    key[i] *= fmaf(rate[i] - 1.f, w[i], 1.f);
  at.template store<T>(p.key_out, key, channels);
  at.load(w, p.bonus);
  const float strength = warp_sum<kTeam>(sum_of([&](int i) { return query[i] * key[i] * w[i]; }));
  if (at.has && at.is_first)
    p.strength_out[at.row * p.heads + at.head] = strength;

  at.template load<T>(x, p.decay);
  at.load(w, p.decay_base);
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    x[i] = kDecayScale * sigmoid(x[i] + w[i]);
  at.template store<float>(p.log_decay_out, x, channels);

  if (p.value_base) {
    float value[kGroup] = {}, first[kGroup] = {};
    at.template load<T>(value, p.value);
    at.template load<T>(first, p.first_value);
    at.template load<T>(x, p.value_mix);
    at.load(w, p.value_base);
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
      value[i] = fmaf(first[i] - value[i], sigmoid(x[i] + w[i]), value[i]);
    at.template store<T>(p.value_out, value, channels);
  }
}

template <class T, int kTeam>
__global__ void __launch_bounds__(kThreads)
    output_kernel(const __grid_constant__ DeltaRuleParams p) {
  const Place<kTeam> at(p);
  const float count = static_cast<float>(p.width);
  float y[kGroup] = {}, value[kGroup] = {}, gate[kGroup] = {}, weight[kGroup] = {},
        bias[kGroup] = {};
  at.template load<T>(y, p.y);
  at.template load<T>(value, p.value);
  at.template load<T>(gate, p.gate);
  at.load(weight, p.weight);
  at.load(bias, p.bias);
  const float strength = at.has ? p.strength[at.row * p.heads + at.head] : 0.f;
  const float mean = warp_sum<kTeam>(sum_of([&](int i) { return y[i]; })) / count;
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    y[i] = at.has ? y[i] - mean : 0.f;
  const float squares = warp_sum<kTeam>(sum_of([&](int i) { return y[i] * y[i]; }));
  const float factor = kExact / sqrtf(squares / count + p.eps);
#pragma unroll
  for (int i = 0; i < kGroup; ++i)
    y[i] = fmaf(strength, value[i], fmaf(y[i] * factor, weight[i], bias[i])) * gate[i];
  at.template store<T>(p.y_out, y, p.heads * p.width);
}

template <int kTeam, class Kernel>
cudaError_t queue(Kernel kernel, const DeltaRuleParams& p, cudaStream_t stream) {
  constexpr int kTeams = kThreads / kTeam;
  const int64_t ctas = (p.batch * p.tokens * p.heads + kTeams - 1) / kTeams;
  kernel<<<ctas, kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch(const DeltaRuleParams& p, cudaStream_t stream) {
  const bool is_narrow = p.width <= 16 * kGroup;
  if (p.y_out)
    return is_narrow ? queue<16>(output_kernel<T, 16>, p, stream)
                     : queue<32>(output_kernel<T, 32>, p, stream);
  return is_narrow ? queue<16>(gates_kernel<T, 16>, p, stream)
                   : queue<32>(gates_kernel<T, 32>, p, stream);
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_delta_rule(const stuffed::kernels::DeltaRuleParams* params,
                                      void* stream) {
  using stuffed::kernels::layer::launch;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (params->width > stuffed::kernels::kWidestHead)
    return cudaErrorInvalidValue;
  return params->is_bf16 ? launch<__nv_bfloat16>(*params, cuda_stream)
                         : launch<float>(*params, cuda_stream);
}
