// The chunked form for one decay per head and token (Mamba-2) on Hopper: every operand of a product
// is read once per warp group (wgmma), loads and stores are the copy engine's.
//
// A CTA walks two tiles of 64 columns that share q and k: two heads, or two tiles of one head. Warp
// group 0 loads (one thread) and makes decays (a warp per tile); groups 1 and 2 take a tile each.
#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kColumns = 64;  // of a tile
constexpr int kTiles = 2;     // per CTA
constexpr int kGroup = 128;   // threads
constexpr int kThreads = (1 + kTiles) * kGroup;
constexpr int kStages = 2;  // as many as there are copies of the state and of y
constexpr int kPart = 16;   // tokens: decays within a part and between parts are kept apart
constexpr int kParts = kBlock / kPart;

/// One block's decays, sums and products of factors <= 1 only.
struct alignas(16) Decays {
  float prefix[kBlock];             // log2, from the start of the token's part through the token
  float until[kParts - 1][kBlock];  // [w-1]: from after the token to the start of part w, times
                                    // v_scale; 0 unless the token lies before
  float to_end[kBlock];      // from after the token to the block's end, times v_scale, lifted
  float scale[kBlock];       // v_scale
  float from_start[kParts];  // from the block's start to the part's
  float total, change;       // log2, of the block; decay_change(total)
};

template <int kKeyTiles>
struct alignas(1024) Shared {
  struct Stage {
    __nv_bfloat16 q[kKeyTiles][kTile / 2], k[kKeyTiles][kTile / 2];  // [token][key]
    __nv_bfloat16 v[kTiles][kTile / 2];                              // [token][column]
  };
  Stage stages[kStages];
  // Both of a block and the next, by its stage: a warp may be a block's products ahead of another.
  __nv_bfloat16 state[kTiles][kStages][kKeyTiles][kTile / 2];  // [column][key], before the block
  __nv_bfloat16 y[kTiles][kStages][kTile / 2];                 // [token][column]
  Decays decays[kStages][kTiles];
  uint64_t full[kStages], empty[kStages];
  Ends ends[kTiles];  // kept out of registers
  float sums[2][kThreads / 32];
};

struct Maps {
  CUtensorMap q, k, v, y;
};

/// The CTA's two tiles are of one head if that has more than one, of two heads otherwise.
__host__ __device__ __forceinline__ int heads_per_cta(const DecayScanParams& p) {
  return p.columns > kColumns ? 1 : kTiles;
}

__host__ __device__ __forceinline__ int columns_per_cta(const DecayScanParams& p) {
  return kTiles * kColumns / heads_per_cta(p);
}

#ifdef STUFFED_ON_HOPPER

// Insertions are made 2^16 times too large: a value times its decay may be less than what bf16
// holds with all its digits.
constexpr float kLift = 65536.f;

/// The CTA's tile `tile` as a task of its own.
__device__ __forceinline__ Task tile_task(const DecayScanParams& p, Task task, int tile) {
  if (heads_per_cta(p) == 1)
    task.first_column += tile * kColumns;
  else
    task.h += tile;
  return task;
}

__device__ __forceinline__ bool exists(const DecayScanParams& p, const Task& tile) {
  return tile.h < p.heads && tile.first_column < p.columns;
}

// ---- warp group 0 ----

/// By one thread: queues the segment's tiles, a block at a time.
template <int kKeyTiles>
__device__ __forceinline__ void load_tiles(Shared<kKeyTiles>& shared,
                                           const DecayScanParams& p,
                                           const Maps& maps,
                                           const Task& task,
                                           bool writes_output) {
  Corner q = corner(p.q, task, 0), k = corner(p.k, task, 0), v[kTiles];
  for (int i = 0; i < kTiles; ++i)
    v[i] = corner(p.v, tile_task(p, task, i), tile_task(p, task, i).first_column);
  const auto load_keys = [&](auto& tiles, const CUtensorMap& map, uint64_t* full, Corner& at) {
    for (int i = 0; i < kKeyTiles; ++i, at.channel += 64)
      load_box(tiles[i], map, full, at);
    at.channel = 0, at.token += kBlock;
  };
  Ring<kStages> ring{0, 1};
  for (int left = blocks_of(task); left > 0; --left, ring.next()) {
    auto& stage = shared.stages[ring.stage];
    uint64_t* const full = shared.full + ring.stage;
    wait(shared.empty + ring.stage, ring.parity);
    arrive_expecting(full, (kTiles + kKeyTiles * (writes_output ? 2 : 1)) * kTile);
    if (writes_output)
      load_keys(stage.q, maps.q, full, q);
    load_keys(stage.k, maps.k, full, k);
    for (int i = 0; i < kTiles; ++i) {
      load_box(stage.v[i], maps.v, full, v[i]);
      v[i].token += kBlock;
    }
  }
}

/// By one warp, whose lane holds tokens `lane` and `lane + 32`: log2 decays and scales as given.
__device__ __forceinline__ void make_decays(Decays& out,
                                            const float (&decay)[2],
                                            const float (&scale)[2],
                                            int lane) {
  const int in_part = lane & (kPart - 1);
  float suffix[2], totals[kParts];  // suffix: from after the token to its part's end
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float prefix = decay[i];
    suffix[i] = decay[i];
#pragma unroll
    for (int d = 1; d < kPart; d *= 2) {
      const float before = __shfl_up_sync(~0u, prefix, d, kPart);
      const float after = __shfl_down_sync(~0u, suffix[i], d, kPart);
      prefix += in_part >= d ? before : 0.f;
      suffix[i] += in_part + d < kPart ? after : 0.f;
    }
    const float next = __shfl_down_sync(~0u, suffix[i], 1, kPart);
    suffix[i] = in_part == kPart - 1 ? 0.f : next;
    totals[2 * i] = __shfl_sync(~0u, prefix, kPart - 1);
    totals[2 * i + 1] = __shfl_sync(~0u, prefix, 2 * kPart - 1);
    out.prefix[lane + 32 * i] = prefix;
    out.scale[lane + 32 * i] = scale[i];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = lane + 32 * i, part = token / kPart;
    float sum = suffix[i];
#pragma unroll
    for (int w = 1; w < kParts; ++w) {
      out.until[w - 1][token] = part < w ? exp2_fast(sum) * scale[i] : 0.f;
      sum += part < w ? totals[w] : 0.f;
    }
    out.to_end[token] = exp2_fast(sum) * scale[i] * kLift;
  }
  if (lane == 0) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kParts; ++w) {
      out.from_start[w] = exp2_fast(sum);
      sum += totals[w];
    }
    out.total = sum;
    out.change = decay_change(sum);
  }
}

/// By one warp per tile: decays of the segment's blocks. A block's are read while the block before
/// is worked on.
template <int kKeyTiles>
__device__ __forceinline__ void load_decays(
    Shared<kKeyTiles>& shared, const DecayScanParams& p, const Task& task, int tile, int lane) {
  const auto of_head = [&](const View& x) {
    return static_cast<const float*>(x.data) + task.b * x.b + task.h * x.h;
  };
  const bool there = exists(p, task), scaled = p.v_scale.data != nullptr;
  const float* const decays = of_head(p.log_decay);
  const float* const scales = of_head(p.v_scale);
  float decay[2], scale[2];
  const auto read = [&](int64_t begin) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t t = begin + lane + 32 * i;
      const bool valid = there && t < task.end;
      decay[i] = valid ? to_log2(decays[t * p.log_decay.t]) : 0.f;
      scale[i] = !valid ? 0.f : scaled ? scales[t * p.v_scale.t] : 1.f;
    }
  };
  read(task.begin);
  Ring<kStages> ring{0, 1};
  for (int64_t begin = task.begin; begin < task.end; begin += kBlock, ring.next()) {
    const float now[2] = {decay[0], decay[1]}, scale_now[2] = {scale[0], scale[1]};
    read(begin + kBlock);
    wait(shared.empty + ring.stage, ring.parity);
    make_decays(shared.decays[ring.stage][tile], now, scale_now, lane);
    arrive_as_warp(shared.full + ring.stage, lane);
  }
}

// ---- warp groups 1 and 2 ----

/// Walks one tile's columns. The state is transposed, [column, key], in the accumulators of wgmma;
/// warp w holds columns [16w, 16w+16) of it, and tokens [16w, 16w+16) of a block's output.
template <int kKeyTiles, bool kWrites>
class Walk {
 public:
  __device__ __forceinline__ Walk(Shared<kKeyTiles>& shared,
                                  const DecayScanParams& p,
                                  const CUtensorMap& y,
                                  const Task& tile_task,
                                  int tile,
                                  int thread)
      : shared_(shared),
        p_(p),
        y_(y),
        at_{tile_task.first_column, static_cast<int>(tile_task.h),
            static_cast<int>(tile_task.begin), static_cast<int>(tile_task.b)},
        left_(blocks_of(tile_task)),
        tile_(tile),
        warp_(thread >> 5),
        lane_(thread & 31),
        row_(16 * warp_ + (lane_ >> 2)),
        pair_(2 * (lane_ & 3)) {}

  __device__ __forceinline__ void run();

 private:
  using Stage = typename Shared<kKeyTiles>::Stage;
  static constexpr int kKeySteps = 4 * kKeyTiles;  // of 16 keys

  __device__ __forceinline__ bool exists() const {
    return at_.head < p_.heads && at_.channel < p_.columns;
  }

  /// use(element of the state, its offset in [K,V]) for those that exist.
  template <class Use>
  __device__ __forceinline__ void for_state(Use use) {
    // What only this needs is not kept in registers around the walk.
    const int thread = recomputed(threadIdx.x) % kGroup;
    const int row = 16 * (thread >> 5) + (thread >> 2 & 7), pair = 2 * (thread & 3);
#pragma unroll
    for (int keys = 0; keys < kKeyTiles; ++keys)
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int key = 64 * keys + 8 * (i >> 2) + pair + (i & 1);
        const int column = at_.channel + row + 8 * (i >> 1 & 1);
        if (exists() && key < p_.keys && column < p_.columns)
          use(state_[keys][i], key * p_.columns + column);
      }
  }

  /// The bf16 copy that q reads in the block of this stage.
  __device__ __forceinline__ void publish_state(int stage) {
#pragma unroll
    for (int keys = 0; keys < kKeyTiles; ++keys)
      store_tile(state_[keys], shared_address(shared_.state[tile_][stage][keys]), warp_, lane_);
  }

  __device__ __forceinline__ void multiply_q(float (&scores)[32], float (&y)[32], int stage) const;
  __device__ __forceinline__ void insertions(uint32_t (&v)[4][4], int stage) const;
  __device__ __forceinline__ void weigh(uint32_t (&weights)[4][4],
                                        const float (&scores)[32],
                                        const Decays& decays,
                                        const float2& prefix,
                                        const float2& row) const;
  __device__ __forceinline__ void advance(float (&state)[32],
                                          const float (&fresh)[32],
                                          float change) const;
  __device__ __forceinline__ void take_block(int stage);

  Shared<kKeyTiles>& shared_;
  const DecayScanParams& p_;
  const CUtensorMap& y_;
  Corner at_;  // of the tile's block: column, head, token, sequence
  int left_;   // blocks
  const int tile_, warp_, lane_, row_, pair_;
  float segment_decay_ = 0;
  float state_[kKeyTiles][32];  // columns row_ and row_ + 8, keys 8n + pair_, +1
};

/// Queues q k^T and q S, each a group.
template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::multiply_q(float (&scores)[32],
                                                                     float (&y)[32],
                                                                     int stage) const {
  const Stage& tiles = shared_.stages[stage];
  const uint64_t k = tile_descriptor(tiles.k);
  const uint64_t state = tile_descriptor(shared_.state[tile_][stage]);
  uint32_t q[kKeySteps][4];
#pragma unroll
  for (int step = 0; step < kKeySteps; ++step)
    load_matrices(q[step], in_tile(shared_address(tiles.q[step / 4]), 16 * warp_ + (lane_ & 15),
                                   2 * (step % 4) + (lane_ >> 4)));
  const auto at = [](int step) { return step / 4 * (kTile / 16) + step % 4 * 2; };
  fence_products();
#pragma unroll
  for (int step = 0; step < kKeySteps; ++step)
    wgmma<kRowsAreColumns>(scores, q[step], k + at(step), step > 0);
  commit_products();
#pragma unroll
  for (int step = 0; step < kKeySteps; ++step)
    wgmma<kRowsAreColumns>(y, q[step], state + at(step), step > 0);
  commit_products();
}

/// v^T, decayed to the block's end, as the a operand of what is inserted.
template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::insertions(uint32_t (&v)[4][4],
                                                                     int stage) const {
  const uint32_t tile = shared_address(shared_.stages[stage].v[tile_]);
  const float* const to_end = shared_.decays[stage][tile_].to_end;
  const int token = (lane_ & 7) + (lane_ >> 4) * 8, part = 2 * warp_ + (lane_ >> 3 & 1);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    load_matrices_transposed(v[step], in_tile(tile, 16 * step + token, part));
    float2 factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      factor[i] = *reinterpret_cast<const float2*>(to_end + 16 * step + 8 * i + pair_);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack(v[step][i]);
      v[step][i] = pack(x.x * factor[i >> 1].x, x.y * factor[i >> 1].y);
    }
  }
}

/// Scores times decays and scales, as the a operand of what they select. `prefix` and `row` are the
/// thread's tokens' decays from the start of their part, as log2 and as factors.
template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::weigh(uint32_t (&weights)[4][4],
                                                                const float (&scores)[32],
                                                                const Decays& decays,
                                                                const float2& prefix,
                                                                const float2& row) const {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    float m[8] = {};
    if (part < warp_) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 column = *reinterpret_cast<const float2*>(
            &decays.until[warp_ - 1][kPart * part + 8 * n + pair_]);
        const float* s = scores + 8 * part + 4 * n;
        m[4 * n] = s[0] * (row.x * column.x), m[4 * n + 1] = s[1] * (row.x * column.y);
        m[4 * n + 2] = s[2] * (row.y * column.x), m[4 * n + 3] = s[3] * (row.y * column.y);
      }
    } else if (part == warp_) {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int i = (lane_ >> 2) + 8 * (e >> 1 & 1), j = 8 * (e >> 2) + pair_ + (e & 1);
        const int token = kPart * part + j;
        const float from = e & 2 ? prefix.y : prefix.x;
        const float decay = exp2_fast(from - decays.prefix[token]) * decays.scale[token];
        m[e] = i >= j ? scores[8 * part + e] * decay : 0.f;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      weights[part][i] = pack(m[2 * i], m[2 * i + 1]);
  }
}

/// Tensor cores truncate when they add, so what a block inserts was summed in fresh accumulators.
template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::advance(float (&state)[32],
                                                                  const float (&fresh)[32],
                                                                  float change) const {
#ifdef STUFFED_BREAK_SCAN  // for tests that must fail
  constexpr float kUnlift = 1.01f / kLift;
#else
  constexpr float kUnlift = 1 / kLift;
#endif
  if (__float_as_int(change) < 0) {  // weak: see decay_change()
#pragma unroll
    for (int i = 0; i < 32; ++i)
      state[i] = fmaf(fresh[i], kUnlift, fmaf(state[i], change, state[i]));
  } else {
#pragma unroll
    for (int i = 0; i < 32; ++i)
      state[i] = fmaf(fresh[i], kUnlift, state[i] * change);
  }
}

template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::take_block(int stage) {
  const Decays& decays = shared_.decays[stage][tile_];
  const Stage& tiles = shared_.stages[stage];
  const uint64_t v = tile_descriptor(tiles.v[tile_]), k = tile_descriptor(tiles.k);
  float scores[32], y[32];
  uint32_t weights[4][4], inserted[4][4];
  if (kWrites)
    multiply_q(scores, y, stage);
  insertions(inserted, stage);
  if (kWrites) {
    const float2 prefix = {decays.prefix[row_], decays.prefix[row_ + 8]};
    const float2 row = {exp2_fast(prefix.x), exp2_fast(prefix.y)};
    const float from_start = decays.from_start[warp_];
    wait_products<1>();
    pin(scores);
    weigh(weights, scores, decays, prefix, row);
    wait_products<0>();
    pin(y);
#pragma unroll
    for (int i = 0; i < 32; ++i)
      y[i] *= (i & 2 ? row.y : row.x) * from_start;
  }
  float fresh[kKeyTiles][32];
  fence_products();
  if (kWrites) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma<kRowsAreRows>(y, weights[step], v + 128 * step, true);
    commit_products();
  }
#pragma unroll
  for (int keys = 0; keys < kKeyTiles; ++keys) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma<kRowsAreRows>(fresh[keys], inserted[step], k + keys * (kTile / 16) + 128 * step,
                          step > 0);
    commit_products();
  }
  const float change = decays.change;
  if (!kWrites)
    segment_decay_ += decays.total;
  if (kWrites) {
    wait_products<kKeyTiles>();
    pin(y);
    store_tile(y, shared_address(shared_.y[tile_][stage]), warp_, lane_);
  }
  if (kKeyTiles == 2) {
    wait_products<1>();
    pin(fresh[0]);
    advance(state_[0], fresh[0], change);
  }
  wait_products<0>();
  pin(fresh[kKeyTiles - 1]);
  arrive_as_warp(shared_.empty + stage, lane_);
  advance(state_[kKeyTiles - 1], fresh[kKeyTiles - 1], change);
  if (kWrites) {
    publish_state(stage ^ 1);
    if (warp_ == 0 && lane_ == 0)
      wait_stores_read();  // of the block before: its place is the next block's
    fence_async();
    group_barrier(1 + tile_);
    if (warp_ == 0 && lane_ == 0)
      store_box(y_, shared_.y[tile_][stage], at_);
  }
}

template <int kKeyTiles, bool kWrites>
__device__ __forceinline__ void Walk<kKeyTiles, kWrites>::run() {
#pragma unroll
  for (int i = 0; i < 32 * kKeyTiles; ++i)
    state_[i / 32][i % 32] = 0;
  if (kWrites) {
    wait_for_earlier_kernels();
    const float* const start = shared_.ends[tile_].start;
    for_state([&](float& x, int at) { x = start[at]; });
    publish_state(0);
    fence_async();
    group_barrier(1 + tile_);
  }
  Ring<kStages> ring;
  for (; left_ > 0; --left_, ring.next(), at_.token += kBlock) {
    wait(shared_.full + ring.stage, ring.parity);
    take_block(ring.stage);
  }
  // By a shuffle, so that the compiler knows that lanes agree and keeps no address for this.
  const Ends ends = shared_.ends[__shfl_sync(~0u, tile_, 0)];
  if (ends.end)
    for_state([&](float& x, int at) { ends.end[at] = x; });
  if (ends.decay && exists() && at_.channel == 0 && warp_ == 0 && lane_ == 0)
    *ends.decay = segment_decay_;
  if (kWrites && warp_ == 0 && lane_ == 0)
    wait_stores();
}

// ---- the kernel ----

/// Where a segment that only sums up may begin: what lies further back is decayed by 2^-160, which
/// is 0 in f32, before the segment ends, in every head of the CTA. Looks back in rounds, every
/// other thread for one of two heads.
__device__ __forceinline__ int64_t first_remembered(const DecayScanParams& p,
                                                    const Task& task,
                                                    float (&sums)[2][kThreads / 32]) {
  constexpr int kEach = kThreads / 2;  // tokens of a head per step: a multiple of kBlock
  static_assert(kEach % kBlock == 0, "segments begin at multiples of a block");
  const int second = threadIdx.x & 1;
  const int64_t h = task.h + (heads_per_cta(p) == 1 ? 0 : second);
  const auto* const decay =
      static_cast<const float*>(p.log_decay.data) + task.b * p.log_decay.b + h * p.log_decay.h;
  float total[2] = {0, 0};
  int64_t begin = task.end;
  for (int each = 3; begin > task.begin && fmaxf(total[0], total[1]) > kFloorLog2; each = 8) {
    float sum = h < p.heads ? 0.f : kFloorLog2;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t t = begin - 1 - static_cast<int>(threadIdx.x / 2) - i * kEach;
      if (i < each && t >= task.begin && h < p.heads)
        sum += to_log2(decay[t * p.log_decay.t]);
    }
#pragma unroll
    for (int lanes = 16; lanes > 1; lanes /= 2)
      sum += __shfl_xor_sync(~0u, sum, lanes);
    if ((threadIdx.x & 31) < 2)
      sums[second][threadIdx.x / 32] = sum;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < kThreads / 32; ++warp)
      total[0] += sums[0][warp], total[1] += sums[1][warp];
    __syncthreads();
    begin = max(task.begin, begin - each * kEach);
  }
  return begin;
}

#endif  // STUFFED_ON_HOPPER

template <int kKeyTiles>
__global__ void __launch_bounds__(kThreads, 1)
    scalar_hopper_kernel(const __grid_constant__ Maps maps,
                         const __grid_constant__ DecayScanParams p,
                         const __grid_constant__ DecayScanPlan plan,
                         int first_segment) {
#ifdef STUFFED_ON_HOPPER
  extern __shared__ __align__(1024) char memory[];
  auto& shared = *reinterpret_cast<Shared<kKeyTiles>*>(memory);
  let_next_kernel_begin();
  Task task = task_of(p, plan, first_segment, columns_per_cta(p), heads_per_cta(p));
  const bool writes_output = task.is_first || first_segment > 0;
  if (!writes_output)
    task.begin = first_remembered(p, task, shared.sums);
  if (threadIdx.x < kTiles) {
    const Task mine = tile_task(p, task, threadIdx.x);
    shared.ends[threadIdx.x] = ends_of(p, plan, mine, writes_output, first_segment);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(shared.full + i, 1 + kTiles * kArrivals);
      init_barrier(shared.empty + i, kTiles * kGroup / 32 * kArrivals);
    }
    publish_barriers();
  }
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == 0)
      load_tiles(shared, p, maps, task, writes_output);
    else if (warp == 1 || warp == 2)
      load_decays(shared, p, tile_task(p, task, warp - 1), warp - 1, lane);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    const Task mine = tile_task(p, task, group - 1);
    const int thread = threadIdx.x % kGroup;
    if (writes_output)
      Walk<kKeyTiles, true>(shared, p, maps.y, mine, group - 1, thread).run();
    else
      Walk<kKeyTiles, false>(shared, p, maps.y, mine, group - 1, thread).run();
  }
#endif
}

cudaError_t make_maps(Maps& maps, const DecayScanParams& p) {
  cudaError_t error = make_tensor_map(maps.q, p.q, p, p.keys);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.k, p.k, p, p.keys);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.v, p.v, p, p.columns);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.y, output_view(p), p, p.columns);
  return error;
}

template <int kKeyTiles>
cudaError_t launch(const DecayScanParams& p,
                   const DecayScanPlan& plan,
                   int first_segment,
                   int count,
                   cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kKeyTiles>);
  Maps maps;
  if (const cudaError_t error = make_maps(maps, p); error != cudaSuccess)
    return error;
  if (const cudaError_t error = allow_shared_memory(scalar_hopper_kernel<kKeyTiles>, kBytes);
      error != cudaSuccess)
    return error;
  const int64_t ctas = ctas_of(p, columns_per_cta(p), heads_per_cta(p)) * count;
  return launch_overlapping(scalar_hopper_kernel<kKeyTiles>, {ctas, kThreads, kBytes, stream},
                            /*overlaps=*/first_segment > 0, maps, p, plan, first_segment);
}

template <int kKeyTiles>
Path make_path(const DecayScanParams& p) {
  return {launch<kKeyTiles>, columns_per_cta(p),
          resident_ctas(scalar_hopper_kernel<kKeyTiles>, kThreads, sizeof(Shared<kKeyTiles>)),
          heads_per_cta(p)};
}

}  // namespace

Path scalar_hopper_path(const DecayScanParams& p) {
  return p.keys <= 64 ? make_path<1>(p) : make_path<2>(p);
}

bool scalar_hopper_takes(const DecayScanParams& p) {
  // Half a tile or less of columns would leave half of every product empty; y is stored in rows of
  // 16-byte parts; two heads share their tiles of q and k.
  return p.columns > kColumns / 2 && p.columns % 8 == 0 &&
         (p.columns > kColumns || (p.q.h == 0 && p.k.h == 0)) && takes_boxes(p.q, p.tokens) &&
         takes_boxes(p.k, p.tokens) && takes_boxes(p.v, p.tokens) &&
         reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && on_hopper();
}

}  // namespace stuffed::kernels::scan
