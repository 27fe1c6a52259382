// The chunked form for one decay per head and token (Mamba-2): q k^T is formed once on tensor cores
// and multiplied by decays that are products of factors <= 1.
#include "kernels/decay_scan/decay_scan_device.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kThreads =
    256;  // warp w + 4 half: tokens [16w, 16w+16), columns [32 half, 32 half+32)
constexpr int kColumns = 64;  // of the state and of y, per CTA
constexpr int kColumnPitch = kColumns + 8;
constexpr int kTiles = 4;  // of 8 columns, per warp

/// Decays between tokens i > j of a block are far[level][i] * far[level][j], level being the
/// highest bit in which i and j differ: each token's decay to the middle of the group of 2 << level
/// tokens around it.
struct alignas(16) Decays {
  float far[6][kBlock];
  float from_start[kBlock];  // through this token
  float to_end[kBlock];      // from the next token on; times the token's v_scale
  float scale[kBlock];
  float total;  // log2, of the block
};

template <int kKeys>
struct Shared {
  static constexpr int kKeyPitch = kKeys + 8;
  struct Stage {
    __nv_bfloat16 q[kBlock * kKeyPitch], k[kBlock * kKeyPitch], v[kBlock * kColumnPitch];
  };
  alignas(16) __nv_bfloat16 state[kKeys * kColumnPitch];
  Common common;
  float log_decay[kBlock], scale[kBlock];  // of the block after the next, as given
  float segment_decay;                     // log2
  Decays decays[2];                        // of this block and the next
  alignas(16) Stage stages[2];             // of which a small device may have only the first
};

/// By one warp: lane holds tokens `lane` and `lane + 32`. Sums run over each group's halves apart,
/// so a weak decay never meets a strong one it does not contain.
__device__ void make_decays(Decays& out, const float* log_decay, const float* scale, int lane) {
  float prefix[2], suffix[2] = {0, 0}, total[2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    prefix[i] = total[i] = to_log2(log_decay[lane + 32 * i]);
#pragma unroll
  for (int level = 0; level < 5; ++level) {
    const bool upper = lane >> level & 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      out.far[level][lane + 32 * i] = exp2_fast(upper ? prefix[i] : suffix[i]);
      const float other = __shfl_xor_sync(~0u, total[i], 1 << level);
      prefix[i] += upper ? other : 0.f;
      suffix[i] += upper ? 0.f : other;
      total[i] += other;
    }
  }
  out.far[5][lane] = exp2_fast(suffix[0]);
  out.far[5][lane + 32] = exp2_fast(prefix[1]);
  suffix[0] += total[1];
  prefix[1] += total[0];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    out.from_start[lane + 32 * i] = exp2_fast(prefix[i]);
    out.to_end[lane + 32 * i] = exp2_fast(suffix[i]) * scale[lane + 32 * i];
    out.scale[lane + 32 * i] = scale[lane + 32 * i];
  }
  if (lane == 0)
    out.total = total[0] + total[1];
}

template <int kKeys>
class Walk {
  static constexpr int kKeyPitch = Shared<kKeys>::kKeyPitch;
  static constexpr int kRowTiles = kKeys / 64;  // of 16 state rows, per warp
  using Stage = typename Shared<kKeys>::Stage;

 public:
  __device__ Walk(const DecayScanParams& p,
                  Shared<kKeys>& shared,
                  const Task& task,
                  const Ends& ends)
      : p_(p),
        shared_(shared),
        task_(task),
        ends_(ends),
        lane_(threadIdx.x & 31),
        warp_(threadIdx.x >> 5),
        part_(warp_ & 3),
        column_((warp_ >> 2) * 8 * kTiles),
        group_(lane_ >> 2),
        pair_(2 * (lane_ & 3)) {}

  __device__ void run(bool writes_output, int stages);

 private:
  __device__ void load(Stage& to, int64_t begin, bool with_q) {
    if (with_q)
      shared_.common.q.template load<kKeys, kKeyPitch, kThreads>(to.q, begin, task_.end);
    shared_.common.k.template load<kKeys, kKeyPitch, kThreads>(to.k, begin, task_.end);
    shared_.common.v.template load<kColumns, kColumnPitch, kThreads>(to.v, begin, task_.end);
    commit_copies();
  }

  /// Warp 0 alone: queues the decays and scales of its lanes' tokens.
  __device__ void load_decays(int64_t begin) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = lane_ + 32 * i;
      const int64_t t = begin + token;
      const bool valid = t < task_.end;
      const auto at = [&](const View& x) {
        return static_cast<const float*>(x.data) + task_.b * x.b + (valid ? t : 0) * x.t +
               task_.h * x.h;
      };
      copy_async_4(shared_.log_decay + token, at(p_.log_decay), valid);
      if (p_.v_scale.data)
        copy_async_4(shared_.scale + token, at(p_.v_scale), valid);
      else
        shared_.scale[token] = valid ? 1.f : 0.f;
    }
    commit_copies();
  }

  __device__ int state_row(int tile, int half) const {
    return 16 * (part_ * kRowTiles + tile) + group_ + 8 * half;
  }
  template <class Use>
  __device__ void for_state(Use use);
  __device__ void publish_state();
  __device__ void weigh(float (&scores)[2][4], int block, const Decays& decays) const;
  __device__ void weigh_diagonal(float (&scores)[2][4], const Decays& decays) const;
  __device__ void score(uint32_t (&weights)[4][4], const Stage& stage, const Decays& decays) const;
  __device__ void write_output(const Stage& stage, const Decays& decays, int64_t begin);
  __device__ void update_state(const Stage& stage, const Decays& decays);

  const DecayScanParams& p_;
  Shared<kKeys>& shared_;
  const Task& task_;
  const Ends& ends_;
  const int lane_, warp_, part_, column_, group_, pair_;
  float state_[kRowTiles][kTiles]
              [4];  // rows state_row(tile, 0 and 1), columns column_ + 8n + pair_, +1
};

/// use(element of state_, its offset in [K,V]) for those that exist.
template <int kKeys>
template <class Use>
__device__ void Walk<kKeys>::for_state(Use use) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = state_row(tile, e >> 1);
        const int column = task_.first_column + column_ + 8 * n + pair_ + (e & 1);
        if (row < p_.keys && column < p_.columns)
          use(state_[tile][n][e], row * p_.columns + column);
      }
}

/// The bf16 copy that q reads.
template <int kKeys>
__device__ void Walk<kKeys>::publish_state() {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __nv_bfloat16* row = shared_.state + state_row(tile, half) * kColumnPitch + column_ + pair_;
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        *reinterpret_cast<uint32_t*>(row + 8 * n) =
            pack(state_[tile][n][2 * half], state_[tile][n][2 * half + 1]);
    }
}

/// Scores with the 16 tokens of an earlier block: one level for all of them.
template <int kKeys>
__device__ void Walk<kKeys>::weigh(float (&scores)[2][4], int block, const Decays& decays) const {
  const float* far = decays.far[(block ^ part_) & 2 ? 5 : 4];
  const float row[2] = {far[16 * part_ + group_], far[16 * part_ + group_ + 8]};
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const int j = 16 * block + 8 * tile + pair_;
    const float2 column = *reinterpret_cast<const float2*>(far + j);
    const float2 scale = *reinterpret_cast<const float2*>(decays.scale + j);
    const float factor[2] = {column.x * scale.x, column.y * scale.y};
#pragma unroll
    for (int e = 0; e < 4; ++e)
      scores[tile][e] *= row[e >> 1] * factor[e & 1];
  }
}

/// Scores of the warp's tokens among each other.
template <int kKeys>
__device__ void Walk<kKeys>::weigh_diagonal(float (&scores)[2][4], const Decays& decays) const {
  const int group = recomputed(group_), pair = recomputed(pair_), first = 16 * part_;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = group + 8 * (e >> 1), j = 8 * tile + pair + (e & 1);
      const int level = 31 - __clz((i ^ j) | 1);
      const float far = decays.far[level][first + i] * decays.far[level][first + j];
      const float decay = i > j ? far : i == j ? 1.f : 0.f;
      scores[tile][e] *= decay * decays.scale[first + j];
    }
}

/// The accumulators of 16 columns as the a operand of the next product.
__device__ inline void as_operand(uint32_t (&a)[4], const float (&s)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    a[i] = pack(s[i >> 1][2 * (i & 1)], s[i >> 1][2 * (i & 1) + 1]);
}

template <int kKeys>
__device__ void Walk<kKeys>::score(uint32_t (&weights)[4][4],
                                   const Stage& stage,
                                   const Decays& decays) const {
  const int lane = recomputed(lane_);
  const Tile<kKeyPitch> q(stage.q);
  const Tile<kKeyPitch> k(stage.k);
  float scores[3][2][4] = {}, diagonal[2][4] = {};
#pragma unroll
  for (int c = 0; c < kKeys; c += 16) {
    uint32_t a[4], b[4];
    q.a_rows(a, 16 * part_, c, lane);
    k.b_rows(b, 16 * part_, c, lane);
    mma(diagonal[0], a, b[0], b[1]);
    mma(diagonal[1], a, b[2], b[3]);
#pragma unroll
    for (int block = 0; block < 3; ++block)
      if (block < part_) {
        k.b_rows(b, 16 * block, c, lane);
        mma(scores[block][0], a, b[0], b[1]);
        mma(scores[block][1], a, b[2], b[3]);
      }
  }
#pragma unroll
  for (int block = 0; block < 3; ++block)
    if (block < part_) {
      weigh(scores[block], block, decays);
      as_operand(weights[block], scores[block]);
    }
  weigh_diagonal(diagonal, decays);
  as_operand(weights[3], diagonal);
}

template <int kKeys>
__device__ void Walk<kKeys>::write_output(const Stage& stage, const Decays& decays, int64_t begin) {
  const int lane = recomputed(lane_);
  const Tile<kKeyPitch> q(stage.q);
  const Tile<kColumnPitch> v(stage.v), state(shared_.state);
  uint32_t weights[4][4];  // of the tokens of earlier blocks, and of the warp's own
  score(weights, stage, decays);
  float y[kTiles][4] = {};  // rows group_ and group_ + 8 of the warp's tokens
  uint32_t b[4];
#pragma unroll
  for (int c = 0; c < kKeys; c += 16) {
    uint32_t a[4];
    q.a_rows(a, 16 * part_, c, lane);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      state.b_columns(b, c, column_ + 8 * n, lane);
      mma(y[n], a, b[0], b[1]);
      mma(y[n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float factor = decays.from_start[16 * part_ + group_ + 8 * half];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      y[n][2 * half] *= factor;
      y[n][2 * half + 1] *= factor;
    }
  }
#pragma unroll
  for (int block = 0; block < 4; ++block)
    if (block < part_ || block == 3) {
      const int row = 16 * (block == 3 ? part_ : block);
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        v.b_columns(b, row, column_ + 8 * n, lane);
        mma(y[n], weights[block], b[0], b[1]);
        mma(y[n + 1], weights[block], b[2], b[3]);
      }
    }
  store_output<kTiles>(p_, task_, y, begin + 16 * part_ + group_, task_.first_column + column_,
                       lane);
}

template <int kKeys>
__device__ void Walk<kKeys>::update_state(const Stage& stage, const Decays& decays) {
  const int lane = recomputed(lane_);
  const Tile<kKeyPitch> k(stage.k);
  const Tile<kColumnPitch> v(stage.v);
  // Tensor cores truncate: what they add up lives for one block only.
  float fresh[kRowTiles][kTiles][4] = {};
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    uint32_t b[kTiles / 2][4];
#pragma unroll
    for (int n = 0; n < kTiles / 2; ++n)
      v.b_columns(b[n], 16 * block, column_ + 16 * n, lane);
    float2 factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      factor[i] = *reinterpret_cast<const float2*>(decays.to_end + 16 * block + 8 * i + pair_);
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      uint32_t a[4];
      k.a_columns(a, 16 * block, 16 * (part_ * kRowTiles + tile), lane);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = unpack(a[i]);
        a[i] = pack(x.x * factor[i >> 1].x, x.y * factor[i >> 1].y);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        mma(fresh[tile][n], a, b[n / 2][2 * (n & 1)], b[n / 2][2 * (n & 1) + 1]);
    }
  }
  const float change = decay_change(decays.total);
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        state_[tile][n][e] = decay_state(state_[tile][n][e], change, fresh[tile][n][e]);
}

template <int kKeys>
__device__ void Walk<kKeys>::run(bool writes_output, int stages) {
  if (threadIdx.x == 0)
    shared_.segment_decay = 0;
  load(shared_.stages[0], task_.begin, writes_output);
  if (warp_ == 0) {
    load_decays(task_.begin);
    wait_copies<0>();
    make_decays(shared_.decays[0], shared_.log_decay, shared_.scale, lane_);
    load_decays(task_.begin + kBlock);
  }
#pragma unroll
  for (int i = 0; i < kRowTiles * kTiles * 4; ++i)
    state_[i / (kTiles * 4)][i / 4 % kTiles][i % 4] = 0;
  if (ends_.start)
    for_state([&](float& x, int at) { x = ends_.start[at]; });
  int index = 0;  // of the block's decays, and of its stage if there are two
  for (int64_t begin = task_.begin; begin < task_.end; begin += kBlock) {
    const bool more = begin + kBlock < task_.end;
    const Stage& stage = shared_.stages[stages == 2 ? index : 0];
    const Decays& decays = shared_.decays[index];
    index ^= 1;
    if (writes_output)
      publish_state();
    wait_copies<0>();
    __syncthreads();  // block, decays and state are there; everyone has left the other stage
    if (more && stages == 2)
      load(shared_.stages[index], begin + kBlock, writes_output);
    if (writes_output)
      write_output(stage, decays, begin);
    if (warp_ == 0 && more) {
      make_decays(shared_.decays[index], shared_.log_decay, shared_.scale, lane_);
      load_decays(begin + 2 * kBlock);
    }
    update_state(stage, decays);
    if (threadIdx.x == 0)
      shared_.segment_decay += decays.total;
    __syncthreads();  // everyone has read the state's copy, the decays and the stage
    if (more && stages == 1)
      load(shared_.stages[0], begin + kBlock, writes_output);
  }
  if (ends_.end)
    for_state([&](float& x, int at) { ends_.end[at] = x; });
  if (ends_.decay && threadIdx.x == 0 && task_.first_column == 0)
    *ends_.decay = shared_.segment_decay;
}

/// Where a segment that only sums up may begin: what lies further back is decayed by 2^-160, which
/// is 0 in f32, before the segment ends. Looks back in rounds of 256, 512, ... 2048 tokens.
__device__ int64_t first_remembered(const DecayScanParams& p, const Task& task) {
  __shared__ float sums[kThreads / 32];
  const auto* const decay =
      static_cast<const float*>(p.log_decay.data) + task.b * p.log_decay.b + task.h * p.log_decay.h;
  float total = 0;
  int64_t begin = task.end;
  for (int each = 1; begin > task.begin && total > kFloorLog2; each = min(2 * each, 8)) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t t = begin - 1 - threadIdx.x - i * kThreads;
      if (i < each && t >= task.begin)
        sum += to_log2(decay[t * p.log_decay.t]);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2)
      sum += __shfl_xor_sync(~0u, sum, lanes);
    if ((threadIdx.x & 31) == 0)
      sums[threadIdx.x >> 5] = sum;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < kThreads / 32; ++warp)
      total += sums[warp];
    __syncthreads();
    begin = max(task.begin, begin - each * kThreads);
  }
  return begin;
}

template <int kKeys>
__global__ void __launch_bounds__(kThreads, 2)
    scalar_kernel(const __grid_constant__ DecayScanParams p,
                  const __grid_constant__ DecayScanPlan plan,
                  int first_segment,
                  int stages) {
  extern __shared__ __align__(16) char memory[];
  Task task = task_of(p, plan, first_segment, kColumns);
  const bool writes_output = task.is_first || first_segment > 0;
  if (!writes_output)
    task.begin = first_remembered(p, task);
  const Ends ends = ends_of(p, plan, task, writes_output, first_segment);
  auto& shared = *reinterpret_cast<Shared<kKeys>*>(memory);
  shared.common.fill(p, task, ends, kColumns);
  Walk<kKeys>(p, shared, shared.common.task, shared.common.ends).run(writes_output, stages);
}

template <int kKeys>
Path make_path() {
  constexpr int kTwo = sizeof(Shared<kKeys>);
  constexpr int kOne = kTwo - sizeof(typename Shared<kKeys>::Stage);
  static_assert(kOne <= 99 * 1024, "the smallest devices could not run this");
  const auto launch = [](const DecayScanParams& p, const DecayScanPlan& plan, int first_segment,
                         int count, cudaStream_t stream) -> cudaError_t {
    const bool two = shared_memory_limit() >= kTwo;
    const int bytes = two ? kTwo : kOne;
    if (const cudaError_t error = allow_shared_memory(scalar_kernel<kKeys>, bytes);
        error != cudaSuccess)
      return error;
    const int64_t ctas = (p.columns + kColumns - 1) / kColumns * p.batch * p.heads * count;
    scalar_kernel<kKeys><<<ctas, kThreads, bytes, stream>>>(p, plan, first_segment, two ? 2 : 1);
    return cudaGetLastError();
  };
  const int bytes = shared_memory_limit() >= kTwo ? kTwo : kOne;
  return {launch, kColumns, resident_ctas(scalar_kernel<kKeys>, kThreads, bytes)};
}

}  // namespace

Path scalar_path(const DecayScanParams& p) {
  return p.keys <= 64 ? make_path<64>() : make_path<128>();
}

}  // namespace stuffed::kernels::scan
