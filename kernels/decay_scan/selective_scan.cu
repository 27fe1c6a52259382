// The recurrence with a factored decay (Mamba-1): each channel is a head of one column, so a thread
// keeps the channel's state rows in registers and nothing is shared but the loads.
#include "kernels/decay_scan/decay_scan_device.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kThreads = 128, kKeys = 16;

/// 2^x - 1 for x <= 0, with small relative error also near 0, where slow decays live.
__device__ inline float fast_change(float x) {
  const float nats = x * kLn2;
  float series = fmaf(nats, 1.f / 120, 1.f / 24);
  series = fmaf(nats, series, 1.f / 6);
  series = fmaf(nats, series, 0.5f);
  series = fmaf(nats, series, 1.f) * nats;
  return nats > -0.125f ? -fabsf(series) : exp2_fast(x);
}

/// The 16 channels of one token; a row of a thread that shares it with its neighbours comes from
/// L1.
template <class T>
__device__ inline void load_row(float (&x)[kKeys], const T* row, int64_t channel_stride, int keys) {
  constexpr int kVector = 16 / sizeof(T);
  if (channel_stride == 1 && keys == kKeys && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < kKeys; i += kVector) {
      alignas(16) T part[kVector];
      *reinterpret_cast<uint4*>(part) = __ldg(reinterpret_cast<const uint4*>(row + i));
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        x[i + e] = float(part[e]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kKeys; ++i)
      x[i] = i < keys ? float(row[i * channel_stride]) : 0.f;
  }
}

template <class T>
__device__ void walk(const DecayScanParams& p,
                     const Task& task,
                     const Ends& ends,
                     bool writes_output) {
  const auto at = [&](const View& x) { return task.b * x.b + task.begin * x.t + task.h * x.h; };
  const T* q = static_cast<const T*>(p.q.data) + at(p.q);
  const T* k = static_cast<const T*>(p.k.data) + at(p.k);
  const T* v = static_cast<const T*>(p.v.data) + at(p.v);
  const float* step = static_cast<const float*>(p.step.data) + at(p.step);
  const float* scale =
      p.v_scale.data ? static_cast<const float*>(p.v_scale.data) + at(p.v_scale) : nullptr;
  T* y = static_cast<T*>(p.y) + (task.b * p.tokens + task.begin) * p.heads + task.h;
  const float offset = p.offset * kLog2E;
  float state[kKeys], rate[kKeys], steps = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    rate[i] =
        i < p.keys
            ? static_cast<const float*>(p.rate.data)[task.h * p.rate.h + i * p.rate.c] * kLog2E
            : 0.f;
    state[i] = ends.start && i < p.keys ? ends.start[i] : 0.f;
  }
#pragma unroll 2
  for (int64_t left = task.end - task.begin; left > 0; --left) {
    float key[kKeys], query[kKeys], out = 0;
    const float dt = *step, value = float(*v) * (scale ? *scale : 1.f);
    load_row(key, k, p.k.c, p.keys);
    load_row(query, q, p.q.c, p.keys);
    step += p.step.t, v += p.v.t, k += p.k.t, q += p.q.t;
    if (scale)
      scale += p.v_scale.t;
    steps += dt;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const float change = fast_change(fmaf(dt, rate[i], offset));
      state[i] = decay_state(state[i], change, key[i] * value);
      out = fmaf(query[i], state[i], out);
    }
    if (writes_output)
      *y = T(out);
    y += p.heads;
  }
#pragma unroll
  for (int i = 0; i < kKeys; ++i)
    if (i < p.keys) {
      if (ends.end)
        ends.end[i] = state[i];
      if (ends.decay)
        ends.decay[i] = fmaf(steps, rate[i], offset * static_cast<float>(task.end - task.begin));
    }
}

__global__ void __launch_bounds__(kThreads, 4)
    factored_kernel(const __grid_constant__ DecayScanParams p,
                    const __grid_constant__ DecayScanPlan plan,
                    int first_segment) {
  Task task = task_of(p, plan, first_segment, 1, kThreads);
  task.h += threadIdx.x;
  if (task.h >= p.heads)
    return;
  const bool writes_output = task.is_first || first_segment > 0;
  const Ends ends = ends_of(p, plan, task, writes_output, first_segment);
  if (p.is_bf16)
    walk<__nv_bfloat16>(p, task, ends, writes_output);
  else
    walk<float>(p, task, ends, writes_output);
}

}  // namespace

Path factored_path(const DecayScanParams&) {
  const auto launch = [](const DecayScanParams& p, const DecayScanPlan& plan, int first_segment,
                         int count, cudaStream_t stream) -> cudaError_t {
    const int64_t ctas = (p.heads + kThreads - 1) / kThreads * p.batch * count;
    factored_kernel<<<ctas, kThreads, 0, stream>>>(p, plan, first_segment);
    return cudaGetLastError();
  };
  return {launch, 1, resident_ctas(factored_kernel, kThreads, 0), kThreads};
}

}  // namespace stuffed::kernels::scan
