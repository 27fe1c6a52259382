// The recurrence token by token on ordinary f32 units: decoding, f32 inputs, the erase term, and
// shapes that the tensor-core forms do not take.
#include "kernels/decay_scan/decay_scan_device.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kThreads = 128, kTile = 8;  // tokens staged at once
constexpr int kMaxKeys = 128;
static_assert(kMaxKeys <= kThreads, "a thread stages each channel");

struct Shared {
  // By token and channel: q as it is, q decayed from the block's start, k, the decay, and, where
  // present, q u k of the bonus or the two erase vectors.
  alignas(16) float q[kTile][kMaxKeys], far_q[kTile][kMaxKeys], k[kTile][kMaxKeys],
      decay[kTile][kMaxKeys];
  alignas(16) float read[kTile][kMaxKeys], write[kTile][kMaxKeys];
  alignas(16) float change[kMaxKeys];
  float v[kTile][kThreads], inserted[kTile][kThreads];
};

__device__ inline float value_at(
    const DecayScanParams& p, const View& x, const Task& task, int64_t t, int c) {
  const int64_t at = task.b * x.b + t * x.t + task.h * x.h + c * x.c;
  return p.is_bf16 ? float(static_cast<const __nv_bfloat16*>(x.data)[at])
                   : static_cast<const float*>(x.data)[at];
}

__device__ inline float float_at(const View& x, const Task& task, int64_t t, int c) {
  return static_cast<const float*>(x.data)[task.b * x.b + t * x.t + task.h * x.h + c * x.c];
}

/// kLanes lanes share a column of the state, 16 rows each: rows 4 (lane + kLanes m) + e.
template <int kLanes>
class Walk {
  static constexpr int kColumns = kThreads / kLanes;

 public:
  __device__ Walk(const DecayScanParams& p, Shared& shared, const Task& task, const Ends& ends)
      : p_(p),
        shared_(shared),
        task_(task),
        ends_(ends),
        lane_(threadIdx.x % kLanes),
        own_(threadIdx.x / kLanes),
        column_(task.first_column + own_) {}

  __device__ void run(bool writes_output);

 private:
  __device__ int row(int m, int e) const { return 4 * (lane_ + kLanes * m) + e; }
  __device__ void stage(int64_t begin, int count);
  __device__ float step(int token);
  __device__ float erase_step(int token);
  __device__ void flush();
  __device__ static float sum_over_rows(float x) {
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
      x += __shfl_xor_sync(~0u, x, lanes);
    return x;
  }

  const DecayScanParams& p_;
  Shared& shared_;
  const Task& task_;
  const Ends& ends_;
  const int lane_, own_, column_;
  float log_decay_ = 0;      // nats, of channel threadIdx.x since the block's start
  float segment_decay_ = 0;  // likewise since the segment's, log2
  // The state at the block's start and what the block added: so a decay near 1 acts 64 tokens at a
  // time, where one token's share of it would be lost to rounding. With an erase term `block_` is
  // the whole state.
  float base_[4][4], block_[4][4];
};

/// Thread c prepares channel c; the loops' loads do not depend on each other.
template <int kLanes>
__device__ void Walk<kLanes>::stage(int64_t begin, int count) {
  const int c = threadIdx.x;
  const bool exclusive = p_.bonus.data != nullptr;
  const float u =
      exclusive && c < p_.keys
          ? static_cast<const float*>(p_.bonus.data)[task_.h * p_.bonus.h + c * p_.bonus.c]
          : 0.f;
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    const bool exists = i < count && c < p_.keys;
    const int64_t t = begin + i;
    float q = 0, k = 0, decay = 0, read = 0, write = 0;
    if (exists) {
      q = value_at(p_, p_.q, task_, t, c);
      k = value_at(p_, p_.k, task_, t, c);
      decay = to_log2(float_at(p_.log_decay, task_, t, c)) * kLn2;
      if (exclusive)
        read = q * u * (p_.bonus_k.data ? value_at(p_, p_.bonus_k, task_, t, c) : k);
      if (p_.read.data) {
        read = value_at(p_, p_.read, task_, t, c);
        write = value_at(p_, p_.write, task_, t, c);
      }
    }
    if (c < 16 * kLanes) {
      const float before = log_decay_;
      log_decay_ += decay;
      shared_.q[i][c] = q;
      shared_.far_q[i][c] = q * expf(exclusive ? before : log_decay_);
      shared_.k[i][c] = k;
      shared_.decay[i][c] = 1.f + expm1f(decay);
      shared_.read[i][c] = read;
      shared_.write[i][c] = write;
    }
    if (c < kColumns) {
      const int column = task_.first_column + c;
      const bool valid = i < count && column < p_.columns;
      const float v = valid ? value_at(p_, p_.v, task_, t, column) : 0.f;
      shared_.v[i][c] = v;
      shared_.inserted[i][c] = valid && p_.v_scale.data ? v * float_at(p_.v_scale, task_, t, 0) : v;
    }
  }
}

template <int kLanes>
__device__ float Walk<kLanes>::step(int token) {
  const bool exclusive = p_.bonus.data != nullptr;
  const float value = shared_.inserted[token][own_];
  float y = 0, self = 0;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    float q[4], far_q[4], k[4], decay[4], quk[4] = {};
    load_four(q, &shared_.q[token][row(m, 0)]);
    load_four(far_q, &shared_.far_q[token][row(m, 0)]);
    load_four(k, &shared_.k[token][row(m, 0)]);
    load_four(decay, &shared_.decay[token][row(m, 0)]);
    if (exclusive)
      load_four(quk, &shared_.read[token][row(m, 0)]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float before = block_[m][e];
      block_[m][e] = fmaf(decay[e], before, k[e] * value);
      y = fmaf(q[e], exclusive ? before : block_[m][e], y);
      y = fmaf(far_q[e], base_[m][e], y);
      self += quk[e];
    }
  }
  return sum_over_rows(fmaf(self, shared_.v[token][own_], y));
}

template <int kLanes>
__device__ float Walk<kLanes>::erase_step(int token) {
  const bool exclusive = p_.bonus.data != nullptr;
  const float value = shared_.inserted[token][own_];
  float read = 0, y = 0;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      read = fmaf(shared_.read[token][row(m, e)], block_[m][e], read);
  read = sum_over_rows(read);
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int c = row(m, e);
      const float before = block_[m][e];
      block_[m][e] = fmaf(shared_.decay[token][c], before,
                          fmaf(shared_.k[token][c], value, -shared_.write[token][c] * read));
      y = fmaf(shared_.q[token][c], exclusive ? before : block_[m][e], y);
    }
  return sum_over_rows(y);
}

/// Ends a block: the base takes up its decay and what it added. Between barriers.
template <int kLanes>
__device__ void Walk<kLanes>::flush() {
  shared_.change[threadIdx.x] = decay_change(log_decay_ * kLog2E);
  segment_decay_ += log_decay_ * kLog2E;
  log_decay_ = 0;
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      base_[m][e] = decay_state(base_[m][e], shared_.change[row(m, e)], block_[m][e]);
      block_[m][e] = 0;
    }
}

template <int kLanes>
__device__ void Walk<kLanes>::run(bool writes_output) {
  const bool erases = p_.read.data != nullptr;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool exists = ends_.start && row(m, e) < p_.keys && column_ < p_.columns;
      const float start = exists ? ends_.start[row(m, e) * p_.columns + column_] : 0.f;
      base_[m][e] = erases ? 0.f : start;
      block_[m][e] = erases ? start : 0.f;
    }
  for (int64_t begin = task_.begin; begin < task_.end; begin += kTile) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), task_.end - begin));
    stage(begin, count);
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      const float y = erases ? erase_step(i) : step(i);
      if (!writes_output || lane_ != 0 || column_ >= p_.columns)
        continue;
      const int64_t at =
          ((task_.b * p_.tokens + begin + i) * p_.heads + task_.h) * p_.columns + column_;
      if (p_.is_bf16)
        static_cast<__nv_bfloat16*>(p_.y)[at] = __float2bfloat16_rn(y);
      else
        static_cast<float*>(p_.y)[at] = y;
    }
    __syncthreads();
    const int64_t done = begin + count;
    if (!erases && ((done - task_.begin) % kBlock == 0 || done == task_.end))
      flush();
  }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (row(m, e) < p_.keys && column_ < p_.columns)
        ends_.end[row(m, e) * p_.columns + column_] = erases ? block_[m][e] : base_[m][e];
  if (ends_.decay && threadIdx.x < p_.keys && task_.first_column == 0)
    ends_.decay[threadIdx.x] = segment_decay_;
}

template <int kLanes>
__global__ void __launch_bounds__(kThreads) token_kernel(const __grid_constant__ DecayScanParams p,
                                                         const __grid_constant__ DecayScanPlan plan,
                                                         int first_segment) {
  __shared__ Shared shared;
  const Task task = task_of(p, plan, first_segment, kThreads / kLanes);
  const bool writes_output = task.is_first || first_segment > 0;
  const Ends ends = ends_of(p, plan, task, writes_output);
  Walk<kLanes>(p, shared, task, ends).run(writes_output);
}

template <int kLanes>
Path make_path() {
  constexpr int kColumns = kThreads / kLanes;
  const auto launch = [](const DecayScanParams& p, const DecayScanPlan& plan, int first_segment,
                         int count, cudaStream_t stream) -> cudaError_t {
    const int64_t ctas = (p.columns + kColumns - 1) / kColumns * p.batch * p.heads * count;
    token_kernel<kLanes><<<ctas, kThreads, 0, stream>>>(p, plan, first_segment);
    return cudaGetLastError();
  };
  return {launch, kColumns, resident_ctas(token_kernel<kLanes>, kThreads, 0)};
}

}  // namespace

Path token_path(const DecayScanParams& p) {
  if (p.keys <= 16)
    return make_path<1>();
  if (p.keys <= 32)
    return make_path<2>();
  return p.keys <= 64 ? make_path<4>() : make_path<8>();
}

}  // namespace stuffed::kernels::scan
