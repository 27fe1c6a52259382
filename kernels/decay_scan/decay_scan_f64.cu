// The specification on the GPU: token by token in f64, for tests and benchmarks at lengths where
// the CPU reference would take hours.
#include <cuda_bf16.h>

#include "kernels/decay_scan/decay_scan_params.h"

namespace stuffed::kernels {

namespace {

constexpr int kThreads = 256, kTile = 4, kLanes = 8,
              kRows = 16;  // kLanes x kRows = 128 rows at most
constexpr int kKeys = kLanes * kRows, kColumns = kThreads / kLanes;

struct Inputs {
  double q[kKeys], k[kKeys], decay[kKeys], self[kKeys], read[kKeys], write[kKeys];
};

struct Head {
  const DecayScanParams& p;
  int64_t b, h;

  __device__ double get(const View& x, int64_t t, int c, bool is_bf16) const {
    const int64_t i = b * x.b + t * x.t + h * x.h + c * x.c;
    return is_bf16 ? static_cast<double>(float(static_cast<const __nv_bfloat16*>(x.data)[i]))
                   : static_cast<double>(static_cast<const float*>(x.data)[i]);
  }
  __device__ double value(const View& x, int64_t t, int c) const { return get(x, t, c, p.is_bf16); }
  __device__ double number(const View& x, int64_t t, int c) const { return get(x, t, c, false); }

  __device__ double base(int c) const { return p.base.data ? number(p.base, 0, c) : 0; }
  __device__ double decay(int64_t t, int c) const {
    if (p.gate_kind == GateKind::NegativeExp)
      return exp(-exp(value(p.gate, t, c) + base(c)));
    if (p.gate_kind == GateKind::Forget)
      return base(c) + (1 - base(c)) / (1 + exp(-value(p.gate, t, c)));
    return exp(p.step.data ? number(p.step, t, 0) * number(p.rate, 0, c) + p.offset
                           : number(p.log_decay, t, c));
  }
  __device__ double key(int64_t t, int c) const {
    return p.gate_kind == GateKind::Forget ? (1 - base(c)) / (1 + exp(value(p.gate, t, c)))
                                           : value(p.k, t, c);
  }

  __device__ void prepare(Inputs& to, int64_t t, int c) const {
    to.q[c] = value(p.q, t, c);
    to.k[c] = key(t, c);
    to.decay[c] = decay(t, c);
    to.self[c] = p.bonus.data
                     ? number(p.bonus, 0, c) * (p.bonus_k.data ? value(p.bonus_k, t, c) : to.k[c])
                     : 0;
    to.read[c] = p.read.data ? value(p.read, t, c) : 0;
    to.write[c] = p.read.data ? value(p.write, t, c) : 0;
  }
};

__device__ double sum_over_lanes(double x) {
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
    x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

__global__ void __launch_bounds__(kThreads)
    f64_kernel(DecayScanParams p, double* y, double* state_out) {
  __shared__ Inputs inputs[kTile];
  const int64_t parts = (p.columns + kColumns - 1) / kColumns, i = blockIdx.x / parts;
  const Head head{p, i / p.heads, i % p.heads};
  const int lane = threadIdx.x % kLanes;
  const int column = static_cast<int>(blockIdx.x % parts) * kColumns + threadIdx.x / kLanes;
  const bool exists = column < p.columns;
  double state[kRows];  // rows lane + kLanes m
  for (int m = 0; m < kRows; ++m) {
    const int c = lane + kLanes * m;
    state[m] = exists && c < p.keys ? p.state_in[(i * p.keys + c) * p.columns + column] : 0;
  }
  for (int64_t begin = 0; begin < p.tokens; begin += kTile) {
    __syncthreads();
    for (int j = threadIdx.x; j < kTile * kKeys; j += kThreads)
      if (begin + j / kKeys < p.tokens && j % kKeys < p.keys)
        head.prepare(inputs[j / kKeys], begin + j / kKeys, j % kKeys);
    __syncthreads();
    for (int64_t t = begin; t < min(begin + kTile, p.tokens); ++t) {
      const Inputs& in = inputs[t - begin];
      const double v = exists ? head.value(p.v, t, column) : 0;
      const double inserted = p.v_scale.data ? v * head.number(p.v_scale, t, 0) : v;
      double erased = 0, out = 0;
      for (int m = 0; m < kRows; ++m)
        if (lane + kLanes * m < p.keys)
          erased += in.read[lane + kLanes * m] * state[m];
      erased = p.read.data ? sum_over_lanes(erased) : 0;
      for (int m = 0; m < kRows; ++m) {
        const int c = lane + kLanes * m;
        if (c >= p.keys)
          continue;
        if (p.bonus.data)
          out += in.q[c] * (state[m] + in.self[c] * v);
        state[m] = in.decay[c] * state[m] - in.write[c] * erased + in.k[c] * inserted;
        if (!p.bonus.data)
          out += in.q[c] * state[m];
      }
      out = sum_over_lanes(out);
      if (exists && lane == 0)
        y[((head.b * p.tokens + t) * p.heads + head.h) * p.columns + column] = out;
    }
  }
  for (int m = 0; m < kRows; ++m) {
    const int c = lane + kLanes * m;
    if (exists && c < p.keys)
      state_out[(i * p.keys + c) * p.columns + column] = state[m];
  }
}

}  // namespace

extern "C" int32_t stuffed_decay_scan_f64(const DecayScanParams* p,
                                          double* y,
                                          double* state,
                                          void* stream) {
  const int64_t ctas = (p->columns + kColumns - 1) / kColumns * p->batch * p->heads;
  f64_kernel<<<ctas, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(*p, y, state);
  return cudaGetLastError();
}

}  // namespace stuffed::kernels
