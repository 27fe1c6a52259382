// The chunked form for a decay per channel (RWKV-5/6, HGRN-2, GLA). Within 16 tokens the decays are
// split at the middles of a binary tree, between blocks of 16 at block borders: every factor is <=
// 1, for any decay.
#include "kernels/decay_scan/decay_scan_device.cuh"
#include "kernels/decay_scan/decay_scan_tree.cuh"

namespace stuffed::kernels::scan {

namespace {

// Warp w of a half owns tokens [16w, 16w+16) of the block and 64 channels.
template <int kHalves>
struct Shared {
  static constexpr int kKeys = 64 * kHalves, kPitch = kKeys + 8, kRawPitch = kKeys + 16;
  static constexpr int kScores = kHalves == 1 ? 0 : 80 * 32;
  alignas(16) __nv_bfloat16 q[kBlock * kRawPitch];
  alignas(16) __nv_bfloat16 k[kBlock * kRawPitch];
  alignas(16) float log_decay[kBlock * kRawPitch];
  alignas(16) __nv_bfloat16 v[kBlock * kPitch];
  alignas(16) __nv_bfloat16 key[kBlock * kPitch];   // k decayed to the end of its 16 tokens; slots
  alignas(16) __nv_bfloat16 state[kKeys * kPitch];  // slots x columns
  alignas(16) float log2_decay[4][kKeys];           // of each 16 tokens
  alignas(16) float decay[4][kKeys];                // 2 to the power of that
  alignas(16) float bonus[kKeys];
  float scale[kBlock];  // v_scale of each token
  Common common;
  // What the two halves of the channels tell each other: their parts of the scores, and their
  // queries.
  alignas(16) float scores[kHalves][kScores + 4];
  alignas(16) __nv_bfloat16 query[kHalves == 1 ? 8 : kBlock * kPitch];
};

template <int kHalves>
class Walk {
  using Memory = Shared<kHalves>;
  static constexpr int kKeys = Memory::kKeys, kPitch = Memory::kPitch,
                       kRawPitch = Memory::kRawPitch;
  static constexpr int kThreads = 128 * kHalves;

 public:
  __device__ Walk(const DecayScanParams& p, Memory& shared, const Task& task, const Ends& ends)
      : p_(p),
        shared_(shared),
        task_(task),
        ends_(ends),
        lane_(threadIdx.x & 31),
        warp_(threadIdx.x >> 5),
        part_(warp_ & 3),
        half_(warp_ >> 2),
        group_(lane_ >> 2),
        quad_(lane_ & 3) {}

  __device__ void run(bool writes_output);

 private:
  __device__ void load_keys(int64_t begin, bool with_q) {
    if (with_q)
      shared_.common.q.template load<kKeys, kRawPitch, kThreads>(shared_.q, begin, task_.end);
    shared_.common.k.template load<kKeys, kRawPitch, kThreads>(shared_.k, begin, task_.end);
    shared_.common.log_decay.template load<kKeys, kRawPitch, kThreads>(shared_.log_decay, begin,
                                                                       task_.end);
    commit_copies();
  }
  __device__ void load_values(int64_t begin) {
    shared_.common.v.template load<kKeys, kPitch, kThreads>(shared_.v, begin, task_.end);
    commit_copies();
  }
  /// By the first threads; the barrier that follows is the loop's.
  __device__ void load_scales(int64_t begin) {
    const View& x = p_.v_scale;
    if (threadIdx.x >= kBlock)
      return;
    const int64_t t = begin + threadIdx.x;
    shared_.scale[threadIdx.x] =
        x.data && t < task_.end
            ? static_cast<const float*>(x.data)[task_.b * x.b + t * x.t + task_.h * x.h]
            : 1.f;
  }

  __device__ int state_row(int half) const {
    return 16 * warp_ + channel_of_slot(group_ + 8 * half);
  }
  __device__ void read_state();
  __device__ void write_state() const;
  __device__ void publish_state();
  template <bool kWritesOutput>
  __device__ void prepare(int64_t begin);
  __device__ void step(int channels, int level, float (&prefix)[2][4]);
  __device__ void score_blocks();
  __device__ void exchange();
  __device__ void write_output(int64_t begin);
  __device__ void update_state();

  const DecayScanParams& p_;
  Memory& shared_;
  const Task& task_;
  const Ends& ends_;
  const int lane_, warp_, part_, half_, group_, quad_;
  float state_[8 * kHalves][4];  // rows state_row(0 and 1), columns 8n + 2 quad_ and the next
  float query_[4][2][4];   // q decayed from the start of the 16 tokens, then of ever earlier ones
  float diagonal_[2][4];   // scores of this warp's tokens with each other
  float scores_[4][2][4];  // with each 16 tokens
};

template <int kHalves>
__device__ void Walk<kHalves>::read_state() {
#pragma unroll
  for (int n = 0; n < 8 * kHalves; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = state_row(e >> 1), column = task_.first_column + 8 * n + 2 * quad_ + (e & 1);
      const bool exists = ends_.start && row < p_.keys && column < p_.columns;
      state_[n][e] = exists ? ends_.start[row * p_.columns + column] : 0.f;
    }
}

template <int kHalves>
__device__ void Walk<kHalves>::write_state() const {
#pragma unroll
  for (int n = 0; n < 8 * kHalves; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = state_row(e >> 1), column = task_.first_column + 8 * n + 2 * quad_ + (e & 1);
      if (ends_.end && row < p_.keys && column < p_.columns)
        ends_.end[row * p_.columns + column] = state_[n][e];
    }
}

/// The bf16 copy that q reads.
template <int kHalves>
__device__ void Walk<kHalves>::publish_state() {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    __nv_bfloat16* row = shared_.state + (16 * warp_ + group_ + 8 * half) * kPitch + 2 * quad_;
#pragma unroll
    for (int n = 0; n < 8 * kHalves; ++n)
      *reinterpret_cast<uint32_t*>(row + 8 * n) =
          pack(state_[n][2 * half], state_[n][2 * half + 1]);
  }
}

/// The warp's 16 tokens by themselves: their decayed queries and keys, and their scores among each
/// other.
template <int kHalves>
template <bool kWritesOutput>
__device__ void Walk<kHalves>::prepare(int64_t begin) {
  const bool exclusive = p_.bonus.data != nullptr;
  const int row = 16 * part_ + group_;
  float near[4][4] = {}, own[2] = {};  // scores by tree level; of each token with itself
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const int channel = 64 * half_ + 16 * s + 4 * quad_;
    Sums sums;
    float q[2][4], k[2][4], bonus[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = (row + 8 * i) * kRawPitch + channel;
      load_four(sums.total[i], shared_.log_decay + at);
      load_four(k[i], shared_.k + at);
      if (kWritesOutput)
        load_four(q[i], shared_.q + at);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sums.total[i][c] = to_log2(sums.total[i][c]);
        sums.prefix[i][c] = exclusive ? 0.f : sums.total[i][c];
        sums.suffix[i][c] = 0;
      }
    }
    if (kWritesOutput) {
      load_four(bonus, shared_.bonus + channel);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          float self = k[i][c];
          const View& x = p_.bonus_k;
          if (x.data) {
            const int64_t t = begin + (kHalves == 1 ? recomputed(row) : row) + 8 * i;
            self = t < task_.end && channel + c < p_.keys
                       ? float(static_cast<const __nv_bfloat16*>(
                             x.data)[task_.b * x.b + t * x.t + task_.h * x.h + (channel + c) * x.c])
                       : 0.f;
          }
          own[i] += q[i][c] * bonus[c] * self;
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        k[i][c] *= shared_.scale[16 * part_ + group_ + 8 * i];
#pragma unroll
    for (int level = 0; level < 3; ++level) {
      const bool upper = group_ >> level & 1;
      if (kWritesOutput)
        score_halves(near[level], sums, q, k, upper);
      sums.grow(1 << level, upper);
    }
    uint32_t a[2], b[2];
#pragma unroll
    for (int c = 0; kWritesOutput && c < 2; ++c) {
      a[c] = pack(q[1][2 * c] * exp2_fast(sums.prefix[1][2 * c]),
                  q[1][2 * c + 1] * exp2_fast(sums.prefix[1][2 * c + 1]));
      b[c] = pack(k[0][2 * c] * exp2_fast(sums.suffix[0][2 * c]),
                  k[0][2 * c + 1] * exp2_fast(sums.suffix[0][2 * c + 1]));
    }
    if (kWritesOutput)
      mma(near[3], {0, a[0], 0, a[1]}, b[0], b[1]);
    float all[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      sums.prefix[1][c] += sums.total[0][c];
      sums.suffix[0][c] += sums.total[1][c];
      all[c] = sums.total[0][c] + sums.total[1][c];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (kWritesOutput)
          query_[s][i][c] = q[i][c] * exp2_fast(sums.prefix[i][c]);
        k[i][c] *= exp2_fast(sums.suffix[i][c]);
      }
      __nv_bfloat16* key = shared_.key + (row + 8 * i) * kPitch + channel - 2 * quad_;
      *reinterpret_cast<uint32_t*>(key) = pack(k[i][0], k[i][1]);
      *reinterpret_cast<uint32_t*>(key + 8) = pack(k[i][2], k[i][3]);
    }
    if (group_ == 0)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        shared_.log2_decay[part_][channel + c] = all[c];
        shared_.decay[part_][channel + c] = exp2_fast(all[c]);
      }
  }
  if constexpr (kWritesOutput) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      own[i] += __shfl_xor_sync(~0u, own[i], 1);
      own[i] += __shfl_xor_sync(~0u, own[i], 2);
      own[i] *= exclusive ? 1.f : shared_.scale[16 * part_ + group_ + 8 * i];
    }
    // A score comes from the level of the highest bit in which row and column differ.
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = 2 * quad_ + (e & 1), differ = group_ ^ column;
      float x = differ >= 4   ? near[2][e]
                : differ >= 2 ? near[1][e]
                : differ >= 1 ? near[0][e]
                              : own[e >> 1];
      x = column <= group_ ? x : 0.f;
      diagonal_[0][e] = e < 2 ? x : near[3][e];
      diagonal_[1][e] = e < 2 ? 0.f : x;
    }
  }
}

/// Scores with the 16 tokens of earlier warps, nearest first; query_ takes up the decay it passes.
template <int kHalves>
__device__ void Walk<kHalves>::score_blocks() {
  const Tile<kPitch> key(shared_.key);
#pragma unroll
  for (int block = 3; block >= 0; --block) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        scores_[block][tile][e] = block == part_ ? diagonal_[tile][e] : 0.f;
    if (block >= part_)
      continue;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      auto& x = query_[s];
      const uint32_t a[4] = {pack(x[0][0], x[0][1]), pack(x[1][0], x[1][1]), pack(x[0][2], x[0][3]),
                             pack(x[1][2], x[1][3])};
      uint32_t b[4];
      key.b_rows(b, 16 * block, 64 * half_ + 16 * s, lane_);
      mma(scores_[block][0], a, b[0], b[1]);
      mma(scores_[block][1], a, b[2], b[3]);
      float decay[4];
      load_four(decay, shared_.decay[block] + 64 * half_ + 16 * s + 4 * quad_);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          x[i][c] *= decay[c];
    }
  }
}

/// Adds the other half's scores to this half's and shares the queries.
template <int kHalves>
__device__ void Walk<kHalves>::exchange() {
  const int first = 4 * part_ * (part_ + 1) * 32 + lane_;
  const auto scores = [&](int half, int block, int i) -> float& {
    return shared_.scores[half][first + (8 * block + i) * 32];
  };
#pragma unroll
  for (int block = 0; block < 4; ++block)
    if (block <= part_)
#pragma unroll
      for (int i = 0; i < 8; ++i)
        scores(half_, block, i) = scores_[block][i / 4][i % 4];
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      __nv_bfloat16* row =
          shared_.query + (16 * part_ + group_ + 8 * i) * kPitch + 64 * half_ + 16 * s + 2 * quad_;
      *reinterpret_cast<uint32_t*>(row) = pack(query_[s][i][0], query_[s][i][1]);
      *reinterpret_cast<uint32_t*>(row + 8) = pack(query_[s][i][2], query_[s][i][3]);
    }
  __syncthreads();
#pragma unroll
  for (int block = 0; block < 4; ++block)
    if (block <= part_)
#pragma unroll
      for (int i = 0; i < 8; ++i)
        scores_[block][i / 4][i % 4] += scores(half_ ^ 1, block, i);
}

template <int kHalves>
__device__ void Walk<kHalves>::write_output(int64_t begin) {
  const Tile<kPitch> v(shared_.v), state(shared_.state), query(shared_.query);
  const int first_column = 64 * half_;
  score_blocks();
  if (kHalves == 2)
    exchange();
  float y[8][4] = {};
#pragma unroll
  for (int s = 0; s < 4 * kHalves; ++s) {
    uint32_t a[4], b[4];
    if (kHalves == 2) {
      query.a_rows(a, 16 * part_, 16 * s, lane_);
    } else {
      const auto& x = query_[s & 3];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = pack(x[i & 1][i & 2], x[i & 1][(i & 2) + 1]);
    }
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      state.b_columns(b, 16 * s, first_column + 8 * n, lane_);
      mma(y[n], a, b[0], b[1]);
      mma(y[n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int block = 0; block < 4; ++block)
    if (block <= part_) {
      const auto& x = scores_[block];
      const uint32_t a[4] = {pack(x[0][0], x[0][1]), pack(x[0][2], x[0][3]), pack(x[1][0], x[1][1]),
                             pack(x[1][2], x[1][3])};
      uint32_t b[4];
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        v.b_columns(b, 16 * block, first_column + 8 * n, lane_);
        mma(y[n], a, b[0], b[1]);
        mma(y[n + 1], a, b[2], b[3]);
      }
    }
  store_output<8>(p_, task_, y, begin + 16 * part_ + group_, task_.first_column + first_column,
                  lane_);
}

/// Each 16 tokens' keys are decayed to the end of these; the sum so far takes up the decay of the
/// next.
template <int kHalves>
__device__ void Walk<kHalves>::update_state() {
  const Tile<kPitch> v(shared_.v), key(shared_.key);
#pragma unroll
  for (int first = 0; first < 8 * kHalves; first += 8) {
    float fresh[8][4] = {};  // tensor cores truncate: what they add up lives for one block only
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      if (block > 0) {
        const float decay[2] = {shared_.decay[block][state_row(0)],
                                shared_.decay[block][state_row(1)]};
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            fresh[n][e] *= decay[e >> 1];
      }
      uint32_t a[4], b[4];
      key.a_columns(a, 16 * block, 16 * warp_, lane_);
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        v.b_columns(b, 16 * block, 8 * (first + n), lane_);
        mma(fresh[n], a, b[0], b[1]);
        mma(fresh[n + 1], a, b[2], b[3]);
      }
    }
    float change[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = 0;
#pragma unroll
      for (int block = 0; block < 4; ++block)
        total += shared_.log2_decay[block][state_row(half)];
      change[half] = decay_change(total);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        state_[first + n][e] = decay_state(state_[first + n][e], change[e >> 1], fresh[n][e]);
  }
}

template <int kHalves>
__device__ void Walk<kHalves>::run(bool writes_output) {
  float segment_decay[2] = {};
  for (int c = threadIdx.x; c < kKeys; c += kThreads) {
    const View& u = p_.bonus;
    const bool exists = u.data && c < p_.keys;
    shared_.bonus[c] = exists   ? static_cast<const float*>(u.data)[task_.h * u.h + c * u.c]
                       : u.data ? 0.f
                                : 1.f;
  }
  load_keys(task_.begin, writes_output);
  load_values(task_.begin);
  read_state();
  for (int64_t begin = task_.begin; begin < task_.end; begin += kBlock) {
    const bool more = begin + kBlock < task_.end;
    load_scales(begin);
    if (writes_output)
      publish_state();
    wait_copies<1>();
    __syncthreads();  // q, k, log_decay and the state are there
    if (writes_output)
      prepare<true>(begin);
    else
      prepare<false>(begin);
    wait_copies<0>();
    __syncthreads();  // v and the decayed keys are there; q, k and log_decay have been read
    if (more)
      load_keys(begin + kBlock, writes_output);
    if (writes_output)
      write_output(begin);
    update_state();
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int block = 0; block < 4; ++block)
        segment_decay[half] += shared_.log2_decay[block][state_row(half)];
    __syncthreads();  // v, the keys, the decays and the state's copy have been read
    if (more)
      load_values(begin + kBlock);
  }
  write_state();
  if (ends_.decay && quad_ == 0 && task_.first_column == 0)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (state_row(half) < p_.keys)
        ends_.decay[state_row(half)] = segment_decay[half];
}

template <int kHalves>
__global__ void __launch_bounds__(128 * kHalves, kHalves == 1 ? 3 : 1)
    vector_kernel(const __grid_constant__ DecayScanParams p,
                  const __grid_constant__ DecayScanPlan plan,
                  int first_segment) {
  extern __shared__ __align__(16) char memory[];
  const Task task = task_of(p, plan, first_segment, 64 * kHalves);
  const bool writes_output = task.is_first || first_segment > 0;
  const Ends ends = ends_of(p, plan, task, writes_output, first_segment);
  auto& shared = *reinterpret_cast<Shared<kHalves>*>(memory);
  shared.common.fill(p, task, ends, 64 * kHalves);
  Walk<kHalves>(p, shared, shared.common.task, shared.common.ends).run(writes_output);
}

template <int kHalves>
Path make_path() {
  constexpr int kBytes = sizeof(Shared<kHalves>), kColumns = 64 * kHalves, kThreads = 128 * kHalves;
  const auto launch = [](const DecayScanParams& p, const DecayScanPlan& plan, int first_segment,
                         int count, cudaStream_t stream) -> cudaError_t {
    if (const cudaError_t error = allow_shared_memory(vector_kernel<kHalves>, kBytes);
        error != cudaSuccess)
      return error;
    const int64_t ctas = (p.columns + kColumns - 1) / kColumns * p.batch * p.heads * count;
    vector_kernel<kHalves><<<ctas, kThreads, kBytes, stream>>>(p, plan, first_segment);
    return cudaGetLastError();
  };
  return {launch, kColumns, resident_ctas(vector_kernel<kHalves>, kThreads, kBytes)};
}

}  // namespace

Path vector_path(const DecayScanParams& p) {
  return p.keys <= 64 ? make_path<1>() : make_path<2>();
}

}  // namespace stuffed::kernels::scan
