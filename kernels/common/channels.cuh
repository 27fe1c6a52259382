// Groups of four channels, in f32 whatever their type in memory, and the functions of one number.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/common/channels.h"

namespace stuffed::kernels::layer {

constexpr int kGroup = kLayerChannels;

// A build with this flag makes every normalised row and every convolution 1 % too large, to show
// that the tests would notice.
#ifdef STUFFED_BREAK_LAYER
constexpr float kExact = 1.01f;
#else
constexpr float kExact = 1.f;
#endif

__device__ inline void load(float (&x)[kGroup], const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

__device__ inline void load(float (&x)[kGroup], const __nv_bfloat16* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  x[0] = __uint_as_float(v.x << 16), x[1] = __uint_as_float(v.x & 0xffff0000u);
  x[2] = __uint_as_float(v.y << 16), x[3] = __uint_as_float(v.y & 0xffff0000u);
}

__device__ inline void store(float* to, const float (&x)[kGroup]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

__device__ inline void store(__nv_bfloat16* to, const float (&x)[kGroup]) {
  alignas(8)
      __nv_bfloat162 v[2] = {__floats2bfloat162_rn(x[0], x[1]), __floats2bfloat162_rn(x[2], x[3])};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(v);
}

/// Row [b,t] of a view, from channel c on.
template <class T>
__device__ inline const T* at(const Rows& rows, int64_t b, int64_t t, int64_t c) {
  return static_cast<const T*>(rows.data) + b * rows.b + t * rows.t + c;
}

__device__ inline float sigmoid(float x) {
  return 1.f / (1.f + expf(-x));
}

__device__ inline float silu(float x) {
  return x * sigmoid(x);
}

__device__ inline float softplus(float x) {  // the border is ATen's
  return x > 20.f ? x : log1pf(expf(x));
}

/// The sum over `kLanes` neighbouring lanes of a warp, the same bits in each.
template <int kLanes>
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

}  // namespace stuffed::kernels::layer
