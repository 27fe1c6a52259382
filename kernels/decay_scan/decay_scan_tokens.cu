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
  float v[kTile][kThreads], inserted[kTile][kThreads], y[kTile][kThreads];
};

/// kLanes lanes share a column of the state, 4 kGroups rows each: rows 4 (lane + kLanes m) + e.
template <class T, int kLanes, int kGroups, bool kErases>
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
  /// Channel c of tokens [begin, begin + count), zeros behind them.
  template <class E>
  __device__ void read_tile(E (&x)[kTile], const View& view, int64_t begin, int c, int count) {
    const E* from = static_cast<const E*>(view.data) + task_.b * view.b + begin * view.t +
                    task_.h * view.h + c * view.c;
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      x[i] = i < count ? __ldg(from + i * view.t) : E(0.f);
  }
  __device__ void fetch(int64_t begin, int count);
  __device__ void put(int count);
  template <int kTokens>
  __device__ void advance(int token);
  __device__ void write_tile(int64_t begin, int count);
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
  // The next tile of channel (q, k, decay, read, write) or column (v, scale) threadIdx.x, on its
  // way from memory while this one is worked on. `read` is the bonus's key where there is one.
  struct {
    T q[kTile], k[kTile], v[kTile], read[kTile], write[kTile];
    float decay[kTile], scale[kTile];
  } next_ = {};
  float log_decay_ = 0;      // nats, of channel threadIdx.x since the block's start
  float segment_decay_ = 0;  // likewise since the segment's, log2
  // The state at the block's start and what the block added: so a decay near 1 acts 64 tokens at a
  // time, where one token's share of it would be lost to rounding. With an erase term `block_` is
  // the whole state.
  float base_[kGroups][4], block_[kGroups][4];
};

/// Reads a tile of channel threadIdx.x; nothing waits for the numbers before put().
template <class T, int kLanes, int kGroups, bool kErases>
__device__ void Walk<T, kLanes, kGroups, kErases>::fetch(int64_t begin, int count) {
  const int c = threadIdx.x, column = task_.first_column + c;
  const int keys = c < p_.keys ? count : 0;
  const int columns = c < kColumns && column < p_.columns ? count : 0;
  read_tile(next_.q, p_.q, begin, c, keys);
  read_tile(next_.k, p_.k, begin, c, keys);
  read_tile(next_.v, p_.v, begin, column, columns);
  read_tile(next_.decay, p_.log_decay, begin, c, keys);
  if (p_.v_scale.data)
    read_tile(next_.scale, p_.v_scale, begin, 0, columns);
  if (!kErases && p_.bonus_k.data)
    read_tile(next_.read, p_.bonus_k, begin, c, keys);
  if (kErases) {
    read_tile(next_.read, p_.read, begin, c, keys);
    read_tile(next_.write, p_.write, begin, c, keys);
  }
}

/// Puts what fetch() read where all threads see it. Between barriers.
template <class T, int kLanes, int kGroups, bool kErases>
__device__ void Walk<T, kLanes, kGroups, kErases>::put(int count) {
  const int c = threadIdx.x;
  const bool exclusive = p_.bonus.data != nullptr;
  const float u =
      exclusive && c < p_.keys
          ? static_cast<const float*>(p_.bonus.data)[task_.h * p_.bonus.h + c * p_.bonus.c]
          : 0.f;
  if (c < 4 * kGroups * kLanes)
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (i >= count)  // decoding: one token
        break;
      const float q = float(next_.q[i]), k = float(next_.k[i]);
      const float decay = to_log2(next_.decay[i]) * kLn2;
      const float before = log_decay_;
      log_decay_ += decay;
      shared_.q[i][c] = q;
      shared_.k[i][c] = k;
      shared_.decay[i][c] = 1.f + expm1f(decay);
      if (kErases) {
        shared_.read[i][c] = float(next_.read[i]);
        shared_.write[i][c] = float(next_.write[i]);
      } else {
        shared_.far_q[i][c] = q * expf(exclusive ? before : log_decay_);
        if (exclusive)
          shared_.read[i][c] = q * u * (p_.bonus_k.data ? float(next_.read[i]) : k);
      }
    }
  if (c < kColumns)
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      const float v = float(next_.v[i]);
      shared_.v[i][c] = v;
      shared_.inserted[i][c] = p_.v_scale.data ? v * next_.scale[i] : v;
    }
}

template <class T, int kLanes, int kGroups, bool kErases>
__device__ float Walk<T, kLanes, kGroups, kErases>::step(int token) {
  const bool exclusive = p_.bonus.data != nullptr;
  const float value = shared_.inserted[token][own_];
  float y[4] = {}, far[4] = {}, self = 0;  // sums side by side: one would wait for itself
#pragma unroll
  for (int m = 0; m < kGroups; ++m) {
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
      y[e] = fmaf(q[e], exclusive ? before : block_[m][e], y[e]);
      far[e] = fmaf(far_q[e], base_[m][e], far[e]);
      self += quk[e];
    }
  }
  const float sum = ((y[0] + y[1]) + (y[2] + y[3])) + ((far[0] + far[1]) + (far[2] + far[3]));
  return sum_over_rows(fmaf(self, shared_.v[token][own_], sum));
}

template <class T, int kLanes, int kGroups, bool kErases>
__device__ float Walk<T, kLanes, kGroups, kErases>::erase_step(int token) {
  const bool exclusive = p_.bonus.data != nullptr;
  const float value = shared_.inserted[token][own_];
  float read[4] = {}, y[4] = {};
#pragma unroll
  for (int m = 0; m < kGroups; ++m) {
    float from[4];
    load_four(from, &shared_.read[token][row(m, 0)]);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      read[e] = fmaf(from[e], block_[m][e], read[e]);
  }
  const float erased = sum_over_rows((read[0] + read[1]) + (read[2] + read[3]));
#pragma unroll
  for (int m = 0; m < kGroups; ++m) {
    float q[4], k[4], decay[4], write[4];
    load_four(q, &shared_.q[token][row(m, 0)]);
    load_four(k, &shared_.k[token][row(m, 0)]);
    load_four(decay, &shared_.decay[token][row(m, 0)]);
    load_four(write, &shared_.write[token][row(m, 0)]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float before = block_[m][e];
      // Nothing but the last step waits for what is erased.
      block_[m][e] = fmaf(-write[e], erased, fmaf(decay[e], before, k[e] * value));
      y[e] = fmaf(q[e], exclusive ? before : block_[m][e], y[e]);
    }
  }
  return sum_over_rows((y[0] + y[1]) + (y[2] + y[3]));
}

template <class T, int kLanes, int kGroups, bool kErases>
template <int kTokens>
__device__ void Walk<T, kLanes, kGroups, kErases>::advance(int token) {
  float y[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
    y[i] = kErases ? erase_step(token + i) : step(token + i);
  if (lane_ == 0)
#pragma unroll
    for (int i = 0; i < kTokens; ++i)
      shared_.y[token + i][own_] = y[i];
}

/// The outputs of a tile, rows of columns side by side.
template <class T, int kLanes, int kGroups, bool kErases>
__device__ void Walk<T, kLanes, kGroups, kErases>::write_tile(int64_t begin, int count) {
  const int columns = min(kColumns, p_.columns - task_.first_column);
  T* to = static_cast<T*>(p_.y) +
          ((task_.b * p_.tokens + begin) * p_.heads + task_.h) * p_.columns + task_.first_column;
  const int64_t row = p_.heads * static_cast<int64_t>(p_.columns);
  for (int at = threadIdx.x; at < count * kColumns; at += kThreads)
    if (at % kColumns < columns)
      to[at / kColumns * row + at % kColumns] = T(shared_.y[at / kColumns][at % kColumns]);
}

/// Ends a block: the base takes up its decay and what it added.
template <class T, int kLanes, int kGroups, bool kErases>
__device__ void Walk<T, kLanes, kGroups, kErases>::flush() {
  shared_.change[threadIdx.x] = decay_change(log_decay_ * kLog2E);
  segment_decay_ += log_decay_ * kLog2E;
  log_decay_ = 0;
  __syncthreads();
#pragma unroll
  for (int m = 0; m < kGroups; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      base_[m][e] = decay_state(base_[m][e], shared_.change[row(m, e)], block_[m][e]);
      block_[m][e] = 0;
    }
}

template <class T, int kLanes, int kGroups, bool kErases>
__device__ void Walk<T, kLanes, kGroups, kErases>::run(bool writes_output) {
#pragma unroll
  for (int m = 0; m < kGroups; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool exists = ends_.start && row(m, e) < p_.keys && column_ < p_.columns;
      const float start = exists ? ends_.start[row(m, e) * p_.columns + column_] : 0.f;
      base_[m][e] = kErases ? 0.f : start;
      block_[m][e] = kErases ? start : 0.f;
    }
  const auto tokens_from = [&](int64_t t) {
    return static_cast<int>(min(static_cast<int64_t>(kTile), task_.end - t));
  };
  if (task_.begin < task_.end)
    fetch(task_.begin, tokens_from(task_.begin));
  for (int64_t begin = task_.begin; begin < task_.end; begin += kTile) {
    const int count = tokens_from(begin);
    __syncthreads();  // all have left the last tile
    if (writes_output && begin > task_.begin)
      write_tile(begin - kTile, kTile);
    put(count);
    __syncthreads();
    const int64_t done = begin + count;
    if (done < task_.end)
      fetch(done, tokens_from(done));
    // Four at a time, stored together, so that a token's sums overlap with the next one's; all
    // eight would be more instructions than the caches near the units hold.
    int i = 0;
    for (; i + 4 <= count; i += 4)
      advance<4>(i);
    for (; i < count; ++i)
      advance<1>(i);
    if (!kErases && ((done - task_.begin) % kBlock == 0 || done == task_.end))
      flush();
  }
  if (writes_output && task_.begin < task_.end) {
    const int64_t last = task_.begin + (task_.end - task_.begin - 1) / kTile * kTile;
    __syncthreads();
    write_tile(last, tokens_from(last));
  }
#pragma unroll
  for (int m = 0; m < kGroups; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (ends_.end && row(m, e) < p_.keys && column_ < p_.columns)
        ends_.end[row(m, e) * p_.columns + column_] = kErases ? block_[m][e] : base_[m][e];
  if (ends_.decay && threadIdx.x < p_.keys && task_.first_column == 0)
    ends_.decay[threadIdx.x] = segment_decay_;
}

template <class T, int kLanes, int kGroups, bool kErases>
__global__ void __launch_bounds__(kThreads, 2)
    token_kernel(const __grid_constant__ DecayScanParams p,
                 const __grid_constant__ DecayScanPlan plan,
                 int first_segment) {
  __shared__ Shared shared;
  const Task task = task_of(p, plan, first_segment, kThreads / kLanes);
  const bool writes_output = task.is_first || first_segment > 0;
  const Ends ends = ends_of(p, plan, task, writes_output, first_segment);
  Walk<T, kLanes, kGroups, kErases>(p, shared, task, ends).run(writes_output);
}

template <class T, int kLanes, int kGroups, bool kErases>
Path make_path() {
  constexpr int kColumns = kThreads / kLanes;
  const auto launch = [](const DecayScanParams& p, const DecayScanPlan& plan, int first_segment,
                         int count, cudaStream_t stream) -> cudaError_t {
    const int64_t ctas = (p.columns + kColumns - 1) / kColumns * p.batch * p.heads * count;
    token_kernel<T, kLanes, kGroups, kErases>
        <<<ctas, kThreads, 0, stream>>>(p, plan, first_segment);
    return cudaGetLastError();
  };
  return {launch, kColumns, resident_ctas(token_kernel<T, kLanes, kGroups, kErases>, kThreads, 0)};
}

template <class T>
Path path_of_type(const DecayScanParams& p) {
  const bool erases = p.read.data != nullptr;
  // A token that erases waits for a sum over all rows: more lanes with fewer rows finish it sooner.
  if (erases)
    return p.keys <= 16   ? make_path<T, 4, 1, true>()
           : p.keys <= 32 ? make_path<T, 8, 1, true>()
           : p.keys <= 64 ? make_path<T, 8, 2, true>()
                          : make_path<T, 8, 4, true>();
  return p.keys <= 16   ? make_path<T, 1, 4, false>()
         : p.keys <= 32 ? make_path<T, 2, 4, false>()
         : p.keys <= 64 ? make_path<T, 4, 4, false>()
                        : make_path<T, 8, 4, false>();
}

}  // namespace

Path token_path(const DecayScanParams& p) {
  return p.is_bf16 ? path_of_type<__nv_bfloat16>(p) : path_of_type<float>(p);
}

}  // namespace stuffed::kernels::scan
