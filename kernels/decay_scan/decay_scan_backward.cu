// The recurrence's backward pass. Three walks over the tokens, each with the state, or the gradient
// by it, in registers:
//   1. forward, a thread per part of a row (channel): dq_t = S_t dy_t, and a state per kGroup tokens;
//   2. backward, likewise by rows: dk_t = G_t v_t, and the decay's gradient from
//        dlog_decay_t = dlog_decay_{t+1} + q_t dq_t - k_t dk_t,
//      begun anew from sum(G * S) at each state of walk 1, so that rounding does not add up;
//   3. backward, a thread per part of a column: dv_t = G_t^T k_t.
// Sums over threads have a fixed order: equal inputs give equal bits.
#include <cuda_bf16.h>

#include "kernels/decay_scan/decay_scan_backward_params.h"

namespace stuffed::kernels {

namespace {

constexpr int kTile = 16, kGroup = 64;  // tokens in shared memory; between the states kept
constexpr int kPart = 32;               // of a row or a column, in a thread's registers
constexpr int kMost = 128;              // K and V at most

using Params = DecayScanBackwardParams;

/// The j-th group of four elements that lane `lane` of L holds of a row of kPart * L.
template <int L>
__device__ int group_of(int j, int lane) {
  return j * L + lane;
}

template <int L>
__device__ int element_of(int i, int lane) {
  return 4 * group_of<L>(i / 4, lane) + i % 4;
}

/// Of a head of a sequence.
struct Source {
  const Params& p;
  int64_t b, h;

  __device__ float get(const View& x, int64_t t, int c, bool is_bf16) const {
    const int64_t i = b * x.b + t * x.t + h * x.h + c * x.c;
    return is_bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(x.data)[i])
                   : static_cast<const float*>(x.data)[i];
  }
  __device__ float value(const View& x, int64_t t, int c) const {
    return get(x, t, c, p.scan.is_bf16);
  }
  __device__ float number(const View& x, int64_t t, int c) const { return get(x, t, c, false); }

  __device__ float scale(int64_t t) const {
    return p.scan.v_scale.data ? number(p.scan.v_scale, t, 0) : 1.0f;
  }
  __device__ float decay(int64_t t, int c) const { return expf(number(p.scan.log_decay, t, c)); }
  __device__ float bonus_key(int64_t t, int c) const {
    return value(p.scan.bonus_k.data ? p.scan.bonus_k : p.scan.k, t, c);
  }
  /// Where an output dense in [B,T,H,width] has this token's row.
  __device__ int64_t row(int64_t t, int64_t width) const {
    return ((b * p.scan.tokens + t) * p.scan.heads + h) * width;
  }
};

/// to[token][0..width) = get(token, c); 0 past the last token, and from `count` on.
template <class Get>
__device__ void fill(float* to, int width, int count, int64_t begin, int64_t tokens, Get get) {
  for (int i = threadIdx.x; i < kTile * width; i += blockDim.x) {
    const int64_t t = begin + i / width;
    const int c = i % width;
    to[i] = t < tokens && c < count ? get(t, c) : 0.0f;
  }
}

template <int L>
__device__ float sum_over_lanes(float x) {
#pragma unroll
  for (int lanes = L / 2; lanes > 0; lanes /= 2)
    x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

template <int L>
__device__ void load_part(float (&part)[kPart], const float* shared, int lane) {
#pragma unroll
  for (int j = 0; j < kPart / 4; ++j) {
    const float4 x = reinterpret_cast<const float4*>(shared)[group_of<L>(j, lane)];
    part[4 * j] = x.x, part[4 * j + 1] = x.y, part[4 * j + 2] = x.z, part[4 * j + 3] = x.w;
  }
}

__device__ int64_t groups_of(int64_t tokens) {
  return (tokens + kGroup - 1) / kGroup;
}

/// Sums each token's row of `from` [kTile][width] over the block's threads, and writes them.
__device__ void write_sums(
    const float* from, int width, int64_t begin, const Source& in, float* to) {
  const int lane = threadIdx.x % 32;
  for (int token = threadIdx.x / 32; token < kTile; token += blockDim.x / 32) {
    float sum = 0;
    for (int c = lane; c < width; c += 32)
      sum += from[token * width + c];
    sum = sum_over_lanes<32>(sum);
    if (lane == 0 && begin + token < in.p.scan.tokens)
      to[in.row(begin + token, 1)] = sum;
  }
}

/// Walk 1. A CTA has a head of a sequence: L lanes per row, each with kPart columns.
template <int L, bool kBonus>
__global__ void __launch_bounds__(kMost* L) forward_rows(Params p) {
  extern __shared__ float4 memory[];
  const int K = p.scan.keys, V = p.scan.columns, rows = blockDim.x / L, columns = kPart * L;
  float* const keys = reinterpret_cast<float*>(memory);  // [kTile][rows], times scale
  float* const decays = keys + kTile * rows;
  float* const values = decays + kTile * rows;  // [kTile][columns]
  float* const dys = values + kTile * columns;
  const int64_t i = blockIdx.x, T = p.scan.tokens;
  const Source in{p, i / p.scan.heads, i % p.scan.heads};
  const int row = threadIdx.x / L, lane = threadIdx.x % L;
  float S[kPart], v[kPart], dy[kPart];
#pragma unroll
  for (int j = 0; j < kPart; ++j) {
    const int c = element_of<L>(j, lane);
    S[j] = row < K && c < V ? p.scan.state_in[(i * K + row) * V + c] : 0.0f;
  }
  for (int64_t begin = 0; begin < T; begin += kTile) {
    __syncthreads();
    fill(keys, rows, K, begin, T,
         [&](int64_t t, int c) { return in.value(p.scan.k, t, c) * in.scale(t); });
    fill(decays, rows, K, begin, T, [&](int64_t t, int c) { return in.decay(t, c); });
    fill(values, columns, V, begin, T, [&](int64_t t, int c) { return in.value(p.scan.v, t, c); });
    fill(dys, columns, V, begin, T, [&](int64_t t, int c) { return in.value(p.dy, t, c); });
    __syncthreads();
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), T - begin));
    for (int t = 0; t < count; ++t) {
      load_part<L>(v, values + t * columns, lane);
      load_part<L>(dy, dys + t * columns, lane);
      const float k = keys[t * rows + row], a = decays[t * rows + row];
      float read = 0;
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        if (kBonus)
          read += S[j] * dy[j];
        S[j] = a * S[j] + k * v[j];
        if (!kBonus)
          read += S[j] * dy[j];
      }
      read = sum_over_lanes<L>(read);
      if (lane == 0 && row < K)
        p.of_q[in.row(begin + t, K) + row] = read;
    }
    const int64_t end = begin + count;
    if (end % kGroup == 0 || end == T) {
      float* const kept = p.workspace + (i * groups_of(T) + (end - 1) / kGroup) * K * V;
#pragma unroll
      for (int j = 0; j < kPart; ++j)
        if (const int c = element_of<L>(j, lane); row < K && c < V)
          kept[row * V + c] = S[j];
    }
  }
}

/// Walk 2, in the same layout.
template <int L, bool kBonus>
__global__ void __launch_bounds__(kMost* L) backward_rows(Params p) {
  extern __shared__ float4 memory[];
  __shared__ float of_token[kTile];  // v_scale
  const int K = p.scan.keys, V = p.scan.columns, rows = blockDim.x / L, columns = kPart * L;
  float* const queries = reinterpret_cast<float*>(memory);  // [kTile][rows]
  float* const keys = queries + kTile * rows;
  float* const decays = keys + kTile * rows;
  float* const of_queries = decays + kTile * rows;
  float* const own = of_queries + kTile * rows;  // bonus keys; else the decays' sums
  float* const scales = own + kTile * rows;      // the scales' sums
  float* const values = scales + kTile * rows;   // [kTile][columns]
  float* const dys = values + kTile * columns;
  const int64_t i = blockIdx.x, T = p.scan.tokens;
  const Source in{p, i / p.scan.heads, i % p.scan.heads};
  const int row = threadIdx.x / L, lane = threadIdx.x % L;
  const bool writes = lane == 0 && row < K, sums_decays = !p.scan.has_vector_decay;
  const float u = kBonus && row < K ? in.number(p.scan.bonus, 0, row) : 0.0f;
  float G[kPart], v[kPart], dy[kPart], of_u = 0, behind = 0;  // behind: sum of carry * S after t
#pragma unroll
  for (int j = 0; j < kPart; ++j) {
    const int c = element_of<L>(j, lane);
    G[j] = row < K && c < V ? p.dstate[(i * K + row) * V + c] : 0.0f;
  }
  for (int64_t begin = (T - 1) / kTile * kTile; begin >= 0; begin -= kTile) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), T - begin));
    const int64_t end = begin + count;
    if (end % kGroup == 0 || end == T) {
      const float* const kept = p.workspace + (i * groups_of(T) + (end - 1) / kGroup) * K * V;
      behind = 0;
#pragma unroll
      for (int j = 0; j < kPart; ++j)
        if (const int c = element_of<L>(j, lane); row < K && c < V)
          behind += G[j] * kept[row * V + c];
      behind = sum_over_lanes<L>(behind);
    }
    __syncthreads();
    fill(queries, rows, K, begin, T, [&](int64_t t, int c) { return in.value(p.scan.q, t, c); });
    fill(keys, rows, K, begin, T, [&](int64_t t, int c) { return in.value(p.scan.k, t, c); });
    fill(decays, rows, K, begin, T, [&](int64_t t, int c) { return in.decay(t, c); });
    fill(of_queries, rows, K, begin, T, [&](int64_t t, int c) { return p.of_q[in.row(t, K) + c]; });
    fill(own, rows, kBonus ? K : 0, begin, T, [&](int64_t t, int c) { return in.bonus_key(t, c); });
    fill(scales, rows, 0, begin, T, [](int64_t, int) { return 0.0f; });
    fill(of_token, 1, 1, begin, T, [&](int64_t t, int) { return in.scale(t); });
    fill(values, columns, V, begin, T, [&](int64_t t, int c) { return in.value(p.scan.v, t, c); });
    fill(dys, columns, V, begin, T, [&](int64_t t, int c) { return in.value(p.dy, t, c); });
    __syncthreads();
    for (int t = count - 1; t >= 0; --t) {
      load_part<L>(v, values + t * columns, lane);
      load_part<L>(dy, dys + t * columns, lane);
      const int at = t * rows + row;
      const float q = queries[at], k = keys[at], a = decays[at], of_q = of_queries[at];
      float inserted = 0, v_dy = 0;
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        if (!kBonus)
          G[j] += q * dy[j];
        inserted += G[j] * v[j];
        G[j] *= a;
        if (kBonus) {
          v_dy += v[j] * dy[j];
          G[j] += q * dy[j];
        }
      }
      inserted = sum_over_lanes<L>(inserted);
      const float of_k = inserted * of_token[t];
      float of_decay = (kBonus ? behind : behind + q * of_q) - k * of_k;
      if (a == 0)  // forgotten: what is left is rounding
        of_decay = 0;
      behind = kBonus ? of_decay + q * of_q : of_decay;
      if (kBonus)
        v_dy = sum_over_lanes<L>(v_dy);
      if (writes) {
        const int64_t to = in.row(begin + t, K) + row;
        float of_key = of_k;
        if (kBonus) {
          const float key = own[at], of_own = u * q * v_dy;
          p.of_q[to] = of_q + u * key * v_dy;
          of_u += q * key * v_dy;
          if (p.of_bonus_key)
            p.of_bonus_key[to] = of_own;
          else
            of_key += of_own;
        }
        p.of_k[to] = of_key;
        if (sums_decays)
          decays[at] = of_decay;  // read by no other thread of its row any more
        else
          p.of_log_decay[to] = of_decay;
        scales[at] = k * inserted;
      }
    }
    if (sums_decays || p.of_scale) {
      __syncthreads();
      if (sums_decays)
        write_sums(decays, rows, begin, in, p.of_log_decay);
      if (p.of_scale)
        write_sums(scales, rows, begin, in, p.of_scale);
    }
  }
  if (writes && kBonus)
    p.of_bonus[i * K + row] = of_u;
#pragma unroll
  for (int j = 0; j < kPart; ++j)
    if (const int c = element_of<L>(j, lane); row < K && c < V)
      p.of_state[(i * K + row) * V + c] = G[j];
}

/// Walk 3. A CTA has 32 columns of a head: L lanes per column, each with kPart rows.
template <int L, bool kBonus>
__global__ void __launch_bounds__(32 * L) backward_columns(Params p) {
  __shared__ float4 queries4[kTile * kPart * L / 4], keys4[kTile * kPart * L / 4],
      decays4[kTile * kPart * L / 4], own4[kBonus ? kTile * kPart * L / 4 : 1];
  __shared__ float dys[kTile * 32], scales[kTile];
  const int K = p.scan.keys, V = p.scan.columns, rows = kPart * L, parts = (V + 31) / 32;
  const auto floats = [](float4* x) { return reinterpret_cast<float*>(x); };
  const int64_t i = blockIdx.x / parts, T = p.scan.tokens;
  const int first = static_cast<int>(blockIdx.x % parts) * 32;
  const Source in{p, i / p.scan.heads, i % p.scan.heads};
  const int own_column = threadIdx.x / L, column = first + own_column, lane = threadIdx.x % L;
  float G[kPart], q[kPart], k[kPart], a[kPart];
#pragma unroll
  for (int j = 0; j < kPart; ++j) {
    const int r = element_of<L>(j, lane);
    G[j] = r < K && column < V ? p.dstate[(i * K + r) * V + column] : 0.0f;
  }
  for (int64_t begin = (T - 1) / kTile * kTile; begin >= 0; begin -= kTile) {
    __syncthreads();
    fill(floats(queries4), rows, K, begin, T,
         [&](int64_t t, int c) { return in.value(p.scan.q, t, c); });
    fill(floats(keys4), rows, K, begin, T,
         [&](int64_t t, int c) { return in.value(p.scan.k, t, c); });
    fill(floats(decays4), rows, K, begin, T, [&](int64_t t, int c) { return in.decay(t, c); });
    if (kBonus)
      fill(floats(own4), rows, K, begin, T, [&](int64_t t, int c) {
        return in.value(p.scan.q, t, c) * in.number(p.scan.bonus, 0, c) * in.bonus_key(t, c);
      });
    fill(dys, 32, V - first, begin, T,
         [&](int64_t t, int c) { return in.value(p.dy, t, first + c); });
    fill(scales, 1, 1, begin, T, [&](int64_t t, int) { return in.scale(t); });
    __syncthreads();
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), T - begin));
    for (int t = count - 1; t >= 0; --t) {
      load_part<L>(q, floats(queries4) + t * rows, lane);
      load_part<L>(k, floats(keys4) + t * rows, lane);
      load_part<L>(a, floats(decays4) + t * rows, lane);
      const float dy = dys[t * 32 + own_column];
      float inserted = 0, own = 0;
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        if (!kBonus)
          G[j] += q[j] * dy;
        inserted += G[j] * k[j];
        G[j] *= a[j];
        if (kBonus)
          G[j] += q[j] * dy;
      }
      inserted = sum_over_lanes<L>(inserted) * scales[t];
      if (kBonus) {
        load_part<L>(k, floats(own4) + t * rows, lane);
#pragma unroll
        for (int j = 0; j < kPart; ++j)
          own += k[j];
        inserted += sum_over_lanes<L>(own) * dy;
      }
      if (lane == 0 && column < V)
        p.of_v[in.row(begin + t, V) + column] = inserted;
    }
  }
}

int lanes_for(int width) {
  return width <= kPart ? 1 : width <= 2 * kPart ? 2 : 4;
}

template <class Kernel>
cudaError_t launch(
    Kernel kernel, int64_t ctas, int threads, int bytes, const Params& p, cudaStream_t stream) {
  if (bytes > 0)
    if (const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        error != cudaSuccess)
      return error;
  kernel<<<static_cast<unsigned>(ctas), threads, bytes, stream>>>(p);
  return cudaGetLastError();
}

template <int L, bool kBonus>
cudaError_t launch_rows(const Params& p, cudaStream_t stream) {
  const int rows = (p.scan.keys + 31) / 32 * 32, columns = kPart * L;
  const int64_t heads = p.scan.batch * p.scan.heads;
  const auto bytes = [&](int of_rows) {
    return static_cast<int>(sizeof(float)) * kTile * (of_rows * rows + 2 * columns);
  };
  const cudaError_t error = launch(forward_rows<L, kBonus>, heads, rows * L, bytes(2), p, stream);
  return error == cudaSuccess
             ? launch(backward_rows<L, kBonus>, heads, rows * L, bytes(6), p, stream)
             : error;
}

template <int L, bool kBonus>
cudaError_t launch_columns(const Params& p, cudaStream_t stream) {
  return launch(backward_columns<L, kBonus>,
                p.scan.batch * p.scan.heads * ((p.scan.columns + 31) / 32), 32 * L, 0, p, stream);
}

template <bool kBonus>
cudaError_t launch_all(const Params& p, cudaStream_t stream) {
  const int of_columns = lanes_for(p.scan.columns), of_rows = lanes_for(p.scan.keys);
  const cudaError_t error = of_columns == 1   ? launch_rows<1, kBonus>(p, stream)
                            : of_columns == 2 ? launch_rows<2, kBonus>(p, stream)
                                              : launch_rows<4, kBonus>(p, stream);
  if (error != cudaSuccess)
    return error;
  return of_rows == 1   ? launch_columns<1, kBonus>(p, stream)
         : of_rows == 2 ? launch_columns<2, kBonus>(p, stream)
                        : launch_columns<4, kBonus>(p, stream);
}

}  // namespace

extern "C" int64_t stuffed_decay_scan_backward_workspace(const DecayScanBackwardParams* p) {
  return p->scan.batch * p->scan.heads * ((p->scan.tokens + kGroup - 1) / kGroup) * p->scan.keys *
         p->scan.columns;
}

extern "C" int32_t stuffed_decay_scan_backward(const DecayScanBackwardParams* p, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return p->scan.bonus.data ? launch_all<true>(*p, queue) : launch_all<false>(*p, queue);
}

}  // namespace stuffed::kernels
