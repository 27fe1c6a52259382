// The chunked form for one decay per channel, K = V = 128 and no bonus (HGRN-2), on Hopper, of
// stored log decays or of a raw gate, from which decay and key are made here without logarithms. Two
// groups of four warps, a half of the channels each, prepare a block of 64 tokens while two others,
// a half of the columns each, multiply the block before.
//
// A warp prepares 16 tokens, a lane two channels of them. Where each half of the block decays by
// less than 2^60 in all channels of a group, q and k are decayed to the block's middle, and one
// product makes all scores. Elsewhere they are decayed to the borders of the 16 tokens, which meet
// at their own middle, or, where that fails too or |q| or |k| exceeds 2^60, in a tree of 8, 4, 2
// and 1 tokens, whose factors are all <= 1. Factors are running products of decays.
#include <type_traits>

#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kWidth = 128;  // K and V
constexpr int kHalf = 64;    // of channels or columns: a tile's width
constexpr int kPart = 16;    // tokens of a preparing warp
constexpr int kParts = kBlock / kPart;
constexpr int kGroup = 128;  // threads
constexpr int kThreads = 4 * kGroup;
constexpr int kStages = 3;
constexpr int kRound = 32;  // tokens of y stored at once
constexpr Box kDecayBox = {sizeof(float), kBlock};
constexpr Box kOutputBox = {sizeof(__nv_bfloat16), kRound};

using Tile64 = __nv_bfloat16[kTile / 2];
using PerPart = float[kParts][kWidth];

struct Decays {
  PerPart decay;
  PerPart lost;  // log2 of the decay, or, of a raw gate, 1 - decay
};

struct alignas(1024) Shared {
  struct Stage {
    Tile64 q[2], k[2], v[2];  // halves; q and k are decayed in place; k may hold the raw gate first
  };
  Stage stages[kStages];
  float log_decay[4][kTile / 4];  // 32 channels each; unused with a raw gate
  Tile64 scores[2][2];            // [block's parity][half of the channels]; k decayed to a middle
  __nv_bfloat16 y[2][kRound * kHalf];  // a sum keeps its second parts here
  Decays parts;
  PerPart first_half;         // of the part; or, in part 0, of the block
  float change[2][kWidth];    // [block's parity]: decay_change() of the block
  float base[kWidth];         // of a raw gate
  int is_extreme[2][kParts];  // q or k: see is_extreme()
  uint32_t zero;
  uint64_t full[kStages], ready[kStages], empty[kStages], decays_full, decays_empty;
  int blocks, left;  // left: the segment's tokens
  Task task;
  Ends ends;
};

static_assert(sizeof(Shared) <= 227 * 1024);

struct Maps {
  CUtensorMap q, k, v, log_decay, y;
};

#ifdef STUFFED_ON_HOPPER

constexpr int kPreparing = 2 * kParts, kMultiplying = 2 * kParts;  // warps
constexpr float kMiddle = 0x1p-60f;                                // what a half may decay by
constexpr float kLargest = 0x1p60f;  // of q and k; the largest of them is 0 or at least the inverse

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float2 reciprocal(float2 x) {
  return {reciprocal(x.x), reciprocal(x.y)};
}

/// False for NaN.
__device__ __forceinline__ bool at_least(float2 a, float2 b, float bound) {
  return fminf(a.x, a.y) >= bound && fminf(b.x, b.y) >= bound && !isnan(a.x + a.y + b.x + b.y);
}

__device__ __forceinline__ float2& two(float* x) {
  return *reinterpret_cast<float2*>(x);
}

// A token's key in two channels, stored or made of a raw gate.
__device__ __forceinline__ float2 wide(uint32_t key) {
  return unpack(key);
}
__device__ __forceinline__ float2 wide(float2 key) {
  return key;
}
__device__ __forceinline__ float2 wide(__nv_bfloat162 key) {
  return unpack(*reinterpret_cast<const uint32_t*>(&key));
}
__device__ __forceinline__ uint32_t narrow(uint32_t key) {
  return key;
}
__device__ __forceinline__ uint32_t narrow(float2 key) {
  return pack(key);
}

/// Whether a factor to a middle may take the largest of these out of bf16's range. Keys of a raw
/// gate are judged by what they make a state lose in 16 tokens: 1 to 16 times the largest, if small.
__device__ __forceinline__ bool is_extreme(float2 x) {
  const float most = fmaxf(x.x, x.y);
  const bool large = __any_sync(~0u, most > kLargest);
  const bool small = !__any_sync(~0u, most >= 1 / kLargest) && __any_sync(~0u, most > 0);
  return large || small;
}

__device__ __forceinline__ __nv_bfloat162 larger(__nv_bfloat162 x, uint32_t y) {
  return __hmax2(x, __habs2(*reinterpret_cast<const __nv_bfloat162*>(&y)));
}

/// decay = base + (1 - base) sigmoid(x) and key = 1 - decay, neither by a difference of near
/// numbers. A decay below 2^-126 counts as that; NaN passes.
__device__ __forceinline__ void open_gate(float& decay, float& key, float x, float base) {
  float t = x * -kLog2E;
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(t) : "f"(126.f));  // its power has an inverse
  const float e = exp2_fast(t), sigmoid = reciprocal(1 + e), free = 1 - base;
  key = free * (e * sigmoid);
  decay = fmaf(free, sigmoid, base);
}

/// What is lost of a state, of which first `a` and then `b` of the rest is.
__device__ __forceinline__ float lost_in_turn(float a, float b) {
  return fmaf(-a, b, a + b);
}

__device__ __forceinline__ float2 lost_in_turn(float2 a, float2 b) {
  return {lost_in_turn(a.x, b.x), lost_in_turn(a.y, b.y)};
}

/// A decay by itself, and by what of a state is lost, which is exact where that is little.
struct Fading {
  float decay = 1, lost = 0;

  __device__ __forceinline__ void add(float decay_, float lost_) {
    decay *= decay_;
    lost = lost_in_turn(lost, lost_);
  }
  /// As decay_change() of its log2.
  __device__ __forceinline__ float change() const { return lost < 0.5f ? -lost : decay; }
  __device__ __forceinline__ float log2() const {
    return lost < 0.5f ? log1pf(-lost) * kLog2E : log2f(decay);
  }
};

/// The block's loads, by one thread.
template <bool kRaw>
__device__ __forceinline__ void load_block(Shared& shared,
                                           const DecayScanParams& p,
                                           const Maps& maps,
                                           bool writes_output,
                                           int block,
                                           int stage) {
  if (block >= shared.blocks)
    return;
  Shared::Stage& to = shared.stages[stage];
  uint64_t* const full = shared.full + stage;
  const auto load = [&](Tile64(&tiles)[2], const CUtensorMap& map, const View& view) {
    for (int half = 0; half < 2; ++half) {
      Corner at = corner(view, shared.task, kHalf * half);
      at.token += block * kBlock;
      load_box(tiles[half], map, full, at);
    }
  };
  arrive_expecting(full, (writes_output ? 6 : 4) * kTile);
  load(to.k, maps.k, kRaw ? p.gate : p.k);
  if (writes_output)
    load(to.q, maps.q, p.q);
  load(to.v, maps.v, p.v);
}

__device__ __forceinline__ void load_decays(Shared& shared,
                                            const DecayScanParams& p,
                                            const Maps& maps,
                                            int block) {
  if (block >= shared.blocks)
    return;
  arrive_expecting(&shared.decays_full, 4 * kTile);
  for (int i = 0; i < 4; ++i) {
    Corner at = corner(p.log_decay, shared.task, 32 * i);
    at.token += block * kBlock;
    load_box(shared.log_decay[i], maps.log_decay, &shared.decays_full, at);
  }
}

/// A warp of a preparing group. `kRaw` below: of a raw gate, GateKind::Forget.
class Prepare {
 public:
  __device__ __forceinline__
  Prepare(Shared& shared, const DecayScanParams& p, const Maps& maps, int half, int warp, int lane)
      : shared_(shared),
        p_(p),
        maps_(maps),
        half_(half),
        warp_(warp),
        lane_(lane),
        pair_(kHalf * half + 2 * lane) {}

  template <bool kWrites, bool kRaw>
  __device__ __forceinline__ void run();

 private:
  /// The lane's two channels of one of the warp's tokens, in a tile.
  __device__ __forceinline__ uint32_t own(uint32_t tile, int token) const {
    return in_tile(tile, kPart * warp_ + token, lane_ >> 2) + (lane_ & 3) * 4;
  }
  __device__ __forceinline__ uint32_t rows_address(uint32_t tile, int step) const {
    return in_tile(tile, kPart * warp_ + (lane_ & 15), 2 * step + (lane_ >> 4));
  }
  __device__ __forceinline__ uint32_t columns_address(uint32_t tile, int row, int step) const {
    return in_tile(tile, row + (lane_ & 7) + (lane_ >> 4) * 8, 2 * step + (lane_ >> 3 & 1));
  }
  __device__ __forceinline__ void barrier() const { group_barrier(1 + half_); }
  /// The same, unknown to the compiler, which otherwise keeps addresses in registers, and spills.
  __device__ __forceinline__ Prepare anew() const {
    Prepare same = *this;
    same.lane_ ^= load_word(shared_address(&shared_.zero));
    return same;
  }

  __device__ __forceinline__ void read_decays(float2 (&decay)[kPart], float2& log2_decay) const;
  __device__ __forceinline__ void load_gate(uint32_t (&x)[kPart]) const;
  __device__ __forceinline__ void open_gates(float2 (&k)[kPart],
                                             float2 (&decay)[kPart],
                                             float2& lost) const;
  __device__ __forceinline__ void score(float (&scores)[2][4], uint32_t q, uint32_t k) const;
  template <int kSize>
  __device__ __forceinline__ void tree_level(float (&scores)[2][4], float2 (&decay)[kPart]) const;
  __device__ __forceinline__ void climb_a_tree(float (&scores)[2][4], float2 (&decay)[kPart]) const;
  __device__ __forceinline__ void decay_to_the_borders(const float2 (&decay)[kPart]) const;
  template <bool kToQ>
  __device__ __forceinline__ void write_token(
      int t, uint32_t q, float2 k, float2 factor, float2 late) const;
  __device__ __forceinline__ void load_queries(uint32_t (&q)[kPart], int begin, int end) const {
#pragma unroll
    for (int t = 0; t < kPart; ++t)
      if (t >= begin && t < end)
        q[t] = load_word(own(q_, t));
  }
  template <bool kRaw, class Key>
  __device__ __forceinline__ void meet_in_the_blocks_middle(float2 (&decay)[kPart],
                                                            uint32_t (&q)[kPart],
                                                            const Key (&k)[kPart],
                                                            float2 second) const;
  __device__ __forceinline__ void meet_in_the_parts_middle(float2 (&decay)[kPart]) const;
  __device__ __forceinline__ bool parts_middle_holds(const float2 (&decay)[kPart]) const;
  __device__ __forceinline__ void write_queries(const float2 (&x)[4], int step) const;
  __device__ __forceinline__ void score_block(float (&scores)[kParts][2][4]) const;
  __device__ __forceinline__ void score_parts(float (&scores)[kParts][2][4]) const;
  __device__ __forceinline__ void keep_the_past(float (&scores)[2][4]) const;
  __device__ __forceinline__ void write_scores(const float (&scores)[kParts][2][4]) const;
  template <bool kRaw>
  __device__ __forceinline__ void write_change(int buffer, const Decays& parts, bool slow);
  __device__ __forceinline__ float2 decay_behind(PerPart& decay) const;
  __device__ __forceinline__ void move_keys(float2 later) const;
  template <bool kRaw>
  __device__ __forceinline__ void prepare_for_walk(int buffer);
  __device__ __forceinline__ void prepare_for_sum(int buffer, int stage, int parity);
  __device__ __forceinline__ void prepare_raw_for_sum(int buffer);
  __device__ __forceinline__ Decays& parts_in(int buffer) const;
  __device__ __forceinline__ void load_next_decays(int block) const;

  Shared& shared_;
  const DecayScanParams& p_;
  const Maps& maps_;
  int half_, warp_, lane_, pair_;
  uint32_t q_ = 0, k_ = 0, scores_ = 0;  // tiles
  int block_ = 0;
  float sum_ = 0;  // log2 of the segment's decay
  Fading total_;   // the same of raw gates
};

/// The warp's tokens in the lane's channels.
__device__ __forceinline__ void Prepare::read_decays(float2 (&decay)[kPart],
                                                     float2& log2_decay) const {
  const uint32_t tile = shared_address(shared_.log_decay[2 * half_ + (lane_ >> 4)]);
  wait(&shared_.decays_full, block_ & 1);
  log2_decay = {0, 0};
#pragma unroll
  for (int t = 0; t < kPart; ++t) {
    float2 x = load_two(in_tile(tile, kPart * warp_ + t, (lane_ & 15) >> 1) + (lane_ & 1) * 8);
    x = {x.x * kLog2E, x.y * kLog2E};
    log2_decay.x += x.x, log2_decay.y += x.y;
    decay[t] = {exp2_fast(x.x), exp2_fast(x.y)};
  }
  arrive_as_warp(&shared_.decays_empty, lane_);
}

/// The same of the raw gate. Beyond the segment's end, where the copy engine fills in zeros, it is
/// one that keeps all.
__device__ __forceinline__ void Prepare::load_gate(uint32_t (&x)[kPart]) const {
  constexpr uint32_t kKeepAll = 0x7f807f80;  // +inf twice
  const int left = shared_.left - kBlock * block_ - kPart * warp_;
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    x[t] = load_word(own(k_, t));
  if (left < kPart)
#pragma unroll
    for (int t = 0; t < kPart; ++t)
      x[t] = t < left ? x[t] : kKeepAll;
}

__device__ __forceinline__ void Prepare::open_gates(float2 (&k)[kPart],
                                                    float2 (&decay)[kPart],
                                                    float2& lost) const {
  const float2 base = two(&shared_.base[pair_]);
  uint32_t x[kPart];
  load_gate(x);
  lost = {0, 0};
#pragma unroll
  for (int t = 0; t < kPart; ++t) {
    const float2 raw = unpack(x[t]);
    open_gate(decay[t].x, k[t].x, raw.x, base.x);
    open_gate(decay[t].y, k[t].y, raw.y, base.y);
    lost = lost_in_turn(lost, k[t]);
  }
}

/// scores += of the warp's tokens with each other.
__device__ __forceinline__ void Prepare::score(float (&scores)[2][4],
                                               uint32_t q,
                                               uint32_t k) const {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4], b[4];
    load_matrices(a, rows_address(q, step));
    load_matrices(b, columns_address(k, kPart * warp_, step));
    mma(scores[0], a, b[0], b[1]);
    mma(scores[1], a, b[2], b[3]);
  }
}

/// Queries of each upper half are decayed from its start, keys of each lower half to its end; one
/// tile holds both.
template <int kSize>
__device__ __forceinline__ void Prepare::tree_level(float (&scores)[2][4],
                                                    float2 (&decay)[kPart]) const {
  uint32_t x[kPart];
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    x[t] = load_word(own(t & kSize ? q_ : k_, t));
#pragma unroll
  for (int start = 0; start < kPart; start += 2 * kSize) {
    float2 factor = {1, 1};
#pragma unroll
    for (int t = start + kSize - 1; t >= start; --t) {
      store_word(own(scores_, t), pack(unpack(x[t]) * factor));
      factor = factor * decay[t];
    }
    factor = {1, 1};
#pragma unroll
    for (int t = start + kSize; t < start + 2 * kSize; ++t) {
      factor = factor * decay[t];
      store_word(own(scores_, t), pack(unpack(x[t]) * factor));
    }
  }
  __syncwarp();
  float level[2][4] = {};
  score(level, scores_, scores_);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = (lane_ >> 2) + 8 * (e >> 1), j = 8 * tile + 2 * (lane_ & 3) + (e & 1);
      if (i > j && (i ^ j) >= kSize && (i ^ j) < 2 * kSize)
        scores[tile][e] = level[tile][e];
    }
  __syncwarp();
  // A zero mixed in: else the compiler keeps the products that levels have in common, and spills.
  const uint32_t zero = load_word(shared_address(&shared_.zero));
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    decay[t] = {__uint_as_float(__float_as_uint(decay[t].x) ^ zero),
                __uint_as_float(__float_as_uint(decay[t].y) ^ zero)};
}

/// Makes the scores of the part, and writes q decayed from its start and k decayed to its end in
/// their own places.
__device__ __forceinline__ void Prepare::climb_a_tree(float (&scores)[2][4],
                                                      float2 (&decay)[kPart]) const {
  score(scores, q_, k_);  // on the diagonal: nothing decays
  anew().tree_level<1>(scores, decay);
  anew().tree_level<2>(scores, decay);
  anew().tree_level<4>(scores, decay);
  anew().tree_level<8>(scores, decay);
  anew().decay_to_the_borders(decay);
}

__device__ __forceinline__ void Prepare::decay_to_the_borders(const float2 (&decay)[kPart]) const {
  uint32_t x[kPart];
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    x[t] = load_word(own(q_, t));
  float2 factor = {1, 1};
#pragma unroll
  for (int t = 0; t < kPart; ++t) {
    factor = factor * decay[t];
    store_word(own(q_, t), pack(unpack(x[t]) * factor));
  }
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    x[t] = load_word(own(k_, t));
  factor = {1, 1};
#pragma unroll
  for (int t = kPart - 1; t >= 0; --t) {
    store_word(own(k_, t), pack(unpack(x[t]) * factor));
    factor = factor * decay[t];
  }
}

/// `factor`: the decay between the token and a middle, which q takes if it is behind, and k if it
/// is before; the other takes the inverse.
template <bool kToQ>
__device__ __forceinline__ void Prepare::write_token(
    int t, uint32_t q, float2 k, float2 factor, float2 late) const {
  const float2 inverse = reciprocal(factor);
  const float2 middle = k * (kToQ ? inverse : factor);
  store_word(own(q_, t), pack(unpack(q) * (kToQ ? factor : inverse)));
  store_word(own(scores_, t), pack(middle));
  store_word(own(k_, t), pack(middle * late));
}

/// Writes q and k decayed to the block's middle, and k decayed to its end. `second` is the decay of
/// the block's second half; q is read anew if the gate is raw.
template <bool kRaw, class Key>
__device__ __forceinline__ void Prepare::meet_in_the_blocks_middle(float2 (&decay)[kPart],
                                                                   uint32_t (&q)[kPart],
                                                                   const Key (&k)[kPart],
                                                                   float2 second) const {
  constexpr int kBatch = kPart / 2;  // tokens; beside a raw gate's keys there is no room for more
  float2 factor = {1, 1};
  if (warp_ == 0 || warp_ == 3)
    factor = two(&shared_.parts.decay[warp_ == 0 ? 1 : 2][pair_]);
  if (warp_ < 2) {
#pragma unroll
    for (int t = kPart - 1; t >= 0; --t) {
      if (kRaw && (t + 1) % kBatch == 0)
        load_queries(q, t + 1 - kBatch, t + 1);
      write_token<false>(t, q[t], wide(k[t]), factor, second);
      factor = factor * decay[t];
    }
  } else {
#pragma unroll
    for (int t = 0; t < kPart; ++t) {
      if (kRaw && t % kBatch == 0)
        load_queries(q, t, t + kBatch);
      factor = factor * decay[t];
      write_token<true>(t, q[t], wide(k[t]), factor, second);
    }
  }
}

__device__ __forceinline__ bool Prepare::parts_middle_holds(const float2 (&decay)[kPart]) const {
  float2 first = decay[0], second = decay[kPart / 2];
#pragma unroll
  for (int t = 1; t < kPart / 2; ++t)
    first = first * decay[t], second = second * decay[t + kPart / 2];
  return __all_sync(~0u, at_least(first, second, kMiddle)) && !shared_.is_extreme[half_][warp_];
}

/// The same for the warp's part.
__device__ __forceinline__ void Prepare::meet_in_the_parts_middle(float2 (&decay)[kPart]) const {
  constexpr int kMiddleToken = kPart / 2;
  float2 second = {1, 1};
#pragma unroll
  for (int t = kMiddleToken; t < kPart; ++t)
    second = second * decay[t];
  uint32_t q[kMiddleToken], k[kMiddleToken];
#pragma unroll
  for (int t = 0; t < kMiddleToken; ++t)
    q[t] = load_word(own(q_, t)), k[t] = load_word(own(k_, t));
  float2 factor = {1, 1};
#pragma unroll
  for (int t = kMiddleToken - 1; t >= 0; --t) {
    write_token<false>(t, q[t], wide(k[t]), factor, second);
    factor = factor * decay[t];
  }
  two(&shared_.first_half[warp_][pair_]) = factor;
#pragma unroll
  for (int t = 0; t < kMiddleToken; ++t)
    q[t] = load_word(own(q_, t + kMiddleToken)), k[t] = load_word(own(k_, t + kMiddleToken));
  factor = {1, 1};
#pragma unroll
  for (int t = 0; t < kMiddleToken; ++t) {
    factor = factor * decay[t + kMiddleToken];
    write_token<true>(t + kMiddleToken, q[t], wide(k[t]), factor, second);
  }
}

/// Channels 16 step on of the warp's q.
__device__ __forceinline__ void Prepare::write_queries(const float2 (&x)[4], int step) const {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   rows_address(q_, step)),
               "r"(pack(x[0])), "r"(pack(x[1])), "r"(pack(x[2])), "r"(pack(x[3]))
               : "memory");
}

/// Of the warp's tokens with all before, both decayed to the block's middle; leaves q decayed from
/// the block's start.
__device__ __forceinline__ void Prepare::score_block(float (&scores)[kParts][2][4]) const {
  uint32_t a[4][4];
#pragma unroll
  for (int step = 0; step < 4; ++step)
    load_matrices(a[step], rows_address(q_, step));
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    if (part <= warp_)
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t b[4];
        load_matrices(b, columns_address(scores_, kPart * part, step));
        mma(scores[part][0], a[step], b[0], b[1]);
        mma(scores[part][1], a[step], b[2], b[3]);
      }
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    if (part == warp_)
      keep_the_past(scores[part]);
  const float* const first_half = shared_.first_half[0] + kHalf * half_ + 2 * (lane_ & 3);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    float2 x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      x[i] = unpack(a[step][i]) *
             *reinterpret_cast<const float2*>(first_half + 16 * step + 8 * (i >> 1));
    write_queries(x, step);
  }
}

/// The same with earlier parts, whose keys are decayed to their ends; leaves q decayed from the
/// block's start.
__device__ __forceinline__ void Prepare::score_parts(float (&scores)[kParts][2][4]) const {
  const int channel = kHalf * half_ + 2 * (lane_ & 3);
  float2 x[4][4];  // q in f32, decayed from its part's start, then from ever earlier ones
  const auto times = [&](const float* factor) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[step][i] = x[step][i] *
                     *reinterpret_cast<const float2*>(factor + channel + 16 * step + 8 * (i >> 1));
  };
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4];
    load_matrices(a, rows_address(q_, step));
#pragma unroll
    for (int i = 0; i < 4; ++i)
      x[step][i] = unpack(a[i]);
  }
  times(shared_.first_half[warp_]);
#pragma unroll
  for (int part = kParts - 2; part >= 0; --part)
    if (part < warp_) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t b[4];
        const uint32_t a[4] = {pack(x[step][0]), pack(x[step][1]), pack(x[step][2]),
                               pack(x[step][3])};
        load_matrices(b, columns_address(k_, kPart * part, step));
        mma(scores[part][0], a, b[0], b[1]);
        mma(scores[part][1], a, b[2], b[3]);
      }
      times(shared_.parts.decay[part]);
    }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    write_queries(x[step], step);
}

/// Of the part's scores with itself.
__device__ __forceinline__ void Prepare::keep_the_past(float (&scores)[2][4]) const {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = (lane_ >> 2) + 8 * (e >> 1), j = 8 * tile + 2 * (lane_ & 3) + (e & 1);
      scores[tile][e] = i >= j ? scores[tile][e] : 0.f;
    }
}

__device__ __forceinline__ void Prepare::write_scores(const float (&scores)[kParts][2][4]) const {
  store_elements([&](int n, int e) { return scores[n >> 1][n & 1][e]; }, scores_, warp_, lane_);
}

/// Of 16 channels a warp: the block's whole decay from the parts'.
template <bool kRaw>
__device__ __forceinline__ void Prepare::write_change(int buffer, const Decays& parts, bool slow) {
  if (lane_ >= kPart)
    return;
  const int channel = kHalf * half_ + kPart * warp_ + lane_;
  if (!slow)
    shared_.first_half[0][channel] = parts.decay[0][channel] * parts.decay[1][channel];
  if constexpr (kRaw) {
    Fading block;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      block.add(parts.decay[part][channel], parts.lost[part][channel]);
    shared_.change[buffer][channel] = block.change();
    total_.add(block.decay, block.lost);
  } else {
    const float sum = (parts.lost[0][channel] + parts.lost[1][channel]) +
                      (parts.lost[2][channel] + parts.lost[3][channel]);
    shared_.change[buffer][channel] = decay_change(sum);
    sum_ += sum;
  }
}

/// From the warp's part's end to the block's end.
__device__ __forceinline__ float2 Prepare::decay_behind(PerPart& decay) const {
  float2 later = {1, 1};
#pragma unroll
  for (int part = 1; part < kParts; ++part)
    if (part > warp_)
      later = later * two(&decay[part][pair_]);
  return later;
}

__device__ __forceinline__ void Prepare::move_keys(float2 later) const {
  uint32_t k[kPart];  // all loads first: none can pass a store
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    k[t] = load_word(own(k_, t));
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    store_word(own(k_, t), pack(unpack(k[t]) * later));
}

/// By thread 0, once all warps have read this block's.
__device__ __forceinline__ void Prepare::load_next_decays(int block) const {
  if (threadIdx.x == 0) {
    wait(&shared_.decays_empty, block & 1);
    load_decays(shared_, p_, maps_, block + 1);
  }
  __syncwarp();
}

template <bool kRaw>
__device__ __forceinline__ void Prepare::prepare_for_walk(int buffer) {
  float2 decay[kPart];
  uint32_t q[kPart];
  std::conditional_t<kRaw, float2, uint32_t> k[kPart];
  bool is_own_extreme = false;
  {
    float2 lost;
    if constexpr (kRaw)
      open_gates(k, decay, lost);
    else
      read_decays(decay, lost);
    float2 whole = decay[0];
#pragma unroll
    for (int t = 1; t < kPart; ++t)
      whole = whole * decay[t];
    two(&shared_.parts.decay[warp_][pair_]) = whole;
    two(&shared_.parts.lost[warp_][pair_]) = lost;
    if (kRaw)
      is_own_extreme = is_extreme(lost);
  }
  {
    __nv_bfloat162 most_q = __floats2bfloat162_rn(0, 0), most_k = most_q;
#pragma unroll
    for (int t = 0; t < kPart; ++t) {
      q[t] = load_word(own(q_, t));
      most_q = larger(most_q, q[t]);
      if constexpr (!kRaw) {
        k[t] = load_word(own(k_, t));
        most_k = larger(most_k, k[t]);
      }
    }
    is_own_extreme |= is_extreme(wide(most_q)) || (!kRaw && is_extreme(wide(most_k)));
    if (lane_ == 0)
      shared_.is_extreme[half_][warp_] = is_own_extreme;
  }
  barrier();  // decays and is_extreme are there
  const float2 first = two(&shared_.parts.decay[0][pair_]) * two(&shared_.parts.decay[1][pair_]);
  const float2 second = two(&shared_.parts.decay[2][pair_]) * two(&shared_.parts.decay[3][pair_]);
  const int4 extreme = *reinterpret_cast<const int4*>(shared_.is_extreme[half_]);
  const bool slow = !__all_sync(~0u, at_least(first, second, kMiddle)) ||
                    (extreme.x | extreme.y | extreme.z | extreme.w) != 0;
  write_change<kRaw>(buffer, shared_.parts, slow);
  float scores[kParts][2][4] = {};
  if (!slow) {
    (kRaw ? anew() : *this).meet_in_the_blocks_middle<kRaw>(decay, q, k, second);
    if (!kRaw)
      load_next_decays(block_);
    barrier();  // keys are there
    score_block(scores);
    barrier();  // and were read
    write_scores(scores);
    return;
  }
  if (kRaw) {
#pragma unroll
    for (int t = 0; t < kPart; ++t)
      store_word(own(k_, t), narrow(k[t]));
    __syncwarp();
  }
  float own_scores[2][4] = {};
  if (parts_middle_holds(decay)) {
    anew().meet_in_the_parts_middle(decay);
    __syncwarp();
    score(own_scores, q_, scores_);
  } else {
    two(&shared_.first_half[warp_][pair_]) = {1, 1};
    anew().climb_a_tree(own_scores, decay);
  }
  keep_the_past(own_scores);
  if (!kRaw)
    load_next_decays(block_);
  barrier();  // keys are there
  anew().score_parts(scores);
#pragma unroll
  for (int part = 0; part < kParts; ++part)
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (part == warp_)
        scores[part][i >> 2][i & 3] = own_scores[i >> 2][i & 3];
  write_scores(scores);
  const float2 later = decay_behind(shared_.parts.decay);
  barrier();  // keys and decays were read
  if (warp_ < kParts - 1)
    anew().move_keys(later);
}

/// A sum has two buffers for them, and so needs one barrier a block.
__device__ __forceinline__ Decays& Prepare::parts_in(int buffer) const {
  return buffer ? *reinterpret_cast<Decays*>(shared_.y) : shared_.parts;
}

__device__ __forceinline__ void Prepare::prepare_for_sum(int buffer, int stage, int parity) {
  Decays& parts = parts_in(buffer);
  float2 decay[kPart], log2_decay, factor = {1, 1};
  read_decays(decay, log2_decay);
#pragma unroll
  for (int t = kPart - 1; t >= 0; --t) {
    const float2 x = decay[t];
    decay[t] = factor;
    factor = factor * x;
  }
  two(&parts.decay[warp_][pair_]) = factor;
  two(&parts.lost[warp_][pair_]) = log2_decay;
  wait(shared_.full + stage, parity);
  uint32_t k[kPart];
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    k[t] = load_word(own(k_, t));
  barrier();
  const float2 later = decay_behind(parts.decay);
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    store_word(own(k_, t), pack(unpack(k[t]) * (decay[t] * later)));
  write_change<false>(buffer, parts, /*slow=*/true);
  load_next_decays(block_);
}

__device__ __forceinline__ void Prepare::prepare_raw_for_sum(int buffer) {
  Decays& parts = parts_in(buffer);
  const float2 base = two(&shared_.base[pair_]);
  float2 key[kPart], factor = {1, 1}, lost = {0, 0};
  uint32_t x[kPart];
  load_gate(x);
#pragma unroll
  for (int t = kPart - 1; t >= 0; --t) {
    const float2 raw = unpack(x[t]);
    float2 decay;
    open_gate(decay.x, key[t].x, raw.x, base.x);
    open_gate(decay.y, key[t].y, raw.y, base.y);
    lost = lost_in_turn(lost, key[t]);
    key[t] = key[t] * factor;
    factor = factor * decay;
  }
  two(&parts.decay[warp_][pair_]) = factor;
  two(&parts.lost[warp_][pair_]) = lost;
  barrier();
  const float2 later = decay_behind(parts.decay);
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    store_word(own(k_, t), pack(key[t] * later));
  write_change<true>(buffer, parts, /*slow=*/true);
}

template <bool kWrites, bool kRaw>
__device__ __forceinline__ void Prepare::run() {
  if (threadIdx.x == 0) {
    if (!kRaw)
      load_decays(shared_, p_, maps_, 0);
    for (int stage = 0; stage < kStages; ++stage)
      load_block<kRaw>(shared_, p_, maps_, kWrites, stage, stage);
  }
  __syncwarp();
  for (; block_ < shared_.blocks; ++block_) {
    const int stage = block_ % kStages, parity = block_ / kStages & 1;
    if (block_ >= 2) {  // the block before the last was multiplied: its stage takes the next one,
                        // its scores' place this one's
      const int next = (block_ + 1) % kStages;
      wait(shared_.empty + next, (block_ - 2) / kStages & 1);
      if (threadIdx.x == 0)
        load_block<kRaw>(shared_, p_, maps_, kWrites, block_ + 1, next);
      __syncwarp();
    }
    const Shared::Stage& tiles = shared_.stages[stage];
    q_ = shared_address(tiles.q[half_]), k_ = shared_address(tiles.k[half_]);
    scores_ = shared_address(shared_.scores[block_ & 1][half_]);
    if (kWrites || kRaw)
      wait(shared_.full + stage, parity);
    if constexpr (kWrites)
      prepare_for_walk<kRaw>(block_ & 1);
    else if constexpr (kRaw)
      prepare_raw_for_sum(block_ & 1);
    else
      prepare_for_sum(block_ & 1, stage, parity);
    fence_async();
    arrive_as_warp(shared_.ready + recomputed(block_) % kStages, lane_);
  }
  if (!kWrites && lane_ < kPart)
    shared_.ends.decay[kHalf * half_ + kPart * warp_ + lane_] = kRaw ? total_.log2() : sum_;
}

/// A thread of a multiplying group. The state is kept transposed: a row per column of v.
class Multiply {
 public:
  __device__ __forceinline__ Multiply(Shared& shared, const CUtensorMap& y)
      : shared_(shared), y_(y) {}

  template <bool kWrites>
  __device__ __forceinline__ void run();

 private:
  /// Read anew, so that nothing that follows from it is kept around a loop.
  static __device__ __forceinline__ int thread_of_block() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  static __device__ __forceinline__ int thread_of_group() { return thread_of_block() % kGroup; }
  /// The group's half of the columns.
  static __device__ __forceinline__ int part() { return thread_of_block() / kGroup - 2; }
  /// Of an accumulator's two columns in a tile of eight.
  static __device__ __forceinline__ int pair() { return 2 * (thread_of_group() & 3); }

  /// visit(element of the state, offset in [K,V]).
  template <class Visit>
  __device__ __forceinline__ void each_element(Visit visit) {
    const int thread = thread_of_group(), lane = thread % 32;
    const int column = kHalf * part() + 16 * (thread / 32) + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
    for (int keys = 0; keys < 2; ++keys)
#pragma unroll
      for (int i = 0; i < 32; ++i)
        visit(state_[keys][i],
              (kHalf * keys + 8 * (i >> 2) + pair + (i & 1)) * kWidth + column + 8 * (i >> 1 & 1));
  }
  static __device__ __forceinline__ void as_operand(uint32_t (&a)[4],
                                                    const float (&state)[32],
                                                    int step);
  __device__ __forceinline__ void read(uint32_t (&y)[8][2], int stage, int buffer) const;
  __device__ __forceinline__ void insert(float (&fresh)[32], int stage, int keys) const;
  __device__ __forceinline__ void advance(float (&state)[32],
                                          const float (&fresh)[32],
                                          const float* change) const;
  __device__ __forceinline__ void store(const uint32_t (&y)[8][2], int round, int block) const;
  template <bool kWrites>
  __device__ __forceinline__ void take_block(int block, int stage);

  Shared& shared_;
  const CUtensorMap& y_;
  float state_[2][32];  // [half of the keys]: rows are columns of v
};

/// Keys 16 step on.
__device__ __forceinline__ void Multiply::as_operand(uint32_t (&a)[4],
                                                     const float (&state)[32],
                                                     int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    a[i] = scan::pack(state[8 * step + 2 * i], state[8 * step + 2 * i + 1]);
}

/// y, transposed, in bf16: what the state holds and what the block's own tokens inserted.
__device__ __forceinline__ void Multiply::read(uint32_t (&y)[8][2], int stage, int buffer) const {
  const Shared::Stage& tiles = shared_.stages[stage];
  const uint64_t v = tile_descriptor(tiles.v[part()]), q = tile_descriptor(tiles.q[0]);
  const uint64_t scores = tile_descriptor(shared_.scores[buffer][0]);
  float sum[32];
  fence_products();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_tiles<kColumnsAreRows, kRowsAreColumns>(
          sum, v + 128 * step, scores + half * (kTile / 16) + 2 * step, half + step > 0);
  commit_products();
  uint32_t state[8][4];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    as_operand(state[i], state_[i >> 2], i & 3);
  fence_products();
#pragma unroll
  for (int i = 0; i < 8; ++i)
    wgmma<kRowsAreColumns>(sum, state[i], q + (i >> 2) * (kTile / 16) + 2 * (i & 3), true);
  commit_products();
  wait_products<0>();
  pin(sum);
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      y[n][i] = scan::pack(sum[4 * n + 2 * i], sum[4 * n + 2 * i + 1]);
}

/// Queues what the block adds to a half of the keys.
__device__ __forceinline__ void Multiply::insert(float (&fresh)[32], int stage, int keys) const {
  const Shared::Stage& tiles = shared_.stages[stage];
  const uint64_t v = tile_descriptor(tiles.v[part()]), k = tile_descriptor(tiles.k[keys]);
  fence_products();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    wgmma_tiles<kColumnsAreRows, kRowsAreRows>(fresh, v + 128 * step, k + 128 * step, step > 0);
  commit_products();
}

__device__ __forceinline__ void Multiply::advance(float (&state)[32],
                                                  const float (&fresh)[32],
                                                  const float* change) const {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 factor = *reinterpret_cast<const float2*>(change + 8 * n);
#pragma unroll
    for (int e = 0; e < 4; ++e)
      state[4 * n + e] =
          decay_state(state[4 * n + e], e & 1 ? factor.y : factor.x, fresh[4 * n + e]);
  }
}

/// Tokens [32 round, 32 round + 32) of the block.
__device__ __forceinline__ void Multiply::store(const uint32_t (&y)[8][2],
                                                int round,
                                                int block) const {
  const uint32_t tile = shared_address(shared_.y[part()]);
  const int thread = thread_of_group(), warp = thread / 32, lane = thread % 32;
  if (thread == 0)
    wait_stores_read();  // of the round before
  group_barrier(3 + part());
#pragma unroll
  for (int n = 0; n < 4; n += 2) {
    const uint32_t(&low)[2] = y[4 * round + n], (&high)[2] = y[4 * round + n + 1];
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     in_tile(tile, 8 * (n + (lane >> 4)) + (lane & 7), 2 * warp + (lane >> 3 & 1))),
                 "r"(low[0]), "r"(low[1]), "r"(high[0]), "r"(high[1])
                 : "memory");
  }
  fence_async();
  group_barrier(3 + part());
  if (thread == 0) {
    const Task& task = shared_.task;
    const int token = static_cast<int>(task.begin) + kBlock * block + kRound * round;
    store_box(y_, shared_.y[part()],
              {kHalf * part(), static_cast<int>(task.h), token, static_cast<int>(task.b)});
  }
}

template <bool kWrites>
__device__ __forceinline__ void Multiply::take_block(int block, int stage) {
  const int buffer = block & 1;
  uint32_t y[8][2];
  float fresh[32];
  if (kWrites)
    read(y, stage, buffer);
#pragma unroll
  for (int keys = 0; keys < 2; ++keys) {
    insert(fresh, stage, keys);
    if (kWrites)
      store(y, keys, block);
    wait_products<0>();
    pin(fresh);
    advance(state_[keys], fresh, shared_.change[buffer] + kHalf * keys + pair());
  }
}

template <bool kWrites>
__device__ __forceinline__ void Multiply::run() {
  wait_for_earlier_kernels();
  const float* const from = shared_.ends.start;
  each_element([&](float& x, int offset) { x = kWrites ? from[offset] : 0.f; });
  for (int block = 0; block < shared_.blocks; ++block) {
    wait(shared_.ready + block % kStages, block / kStages & 1);
    take_block<kWrites>(block, block % kStages);
    arrive_as_warp(shared_.empty + recomputed(block) % kStages, thread_of_group() % 32);
  }
  if (kWrites && thread_of_group() == 0)
    wait_stores();
  if (float* const to = shared_.ends.end)
    each_element([&](float& x, int offset) { to[offset] = x; });
}

#endif  // STUFFED_ON_HOPPER

template <bool kRaw>
__global__ void __launch_bounds__(kThreads, 1)
    wide_hopper_kernel(const __grid_constant__ Maps maps,
                       const __grid_constant__ DecayScanParams p,
                       const __grid_constant__ DecayScanPlan plan,
                       int first_segment) {
#ifdef STUFFED_ON_HOPPER
  extern __shared__ __align__(1024) char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  let_next_kernel_begin();
  const bool writes_output = first_segment > 0 || task_of(p, plan, first_segment, kWidth).is_first;
  if (threadIdx.x == 0) {
    const Task task = task_of(p, plan, first_segment, kWidth);
    shared.task = task;
    shared.blocks = blocks_of(task);
    shared.left = static_cast<int>(task.end - task.begin);
    shared.ends = ends_of(p, plan, task, writes_output, first_segment);
    shared.zero = 0;
    for (int i = 0; i < kStages; ++i) {
      init_barrier(shared.full + i, 1);
      init_barrier(shared.ready + i, kPreparing * kArrivals);
      init_barrier(shared.empty + i, kMultiplying * kArrivals);
    }
    init_barrier(&shared.decays_full, 1);
    init_barrier(&shared.decays_empty, kPreparing * kArrivals);
    publish_barriers();
  }
  if (kRaw && threadIdx.x < kWidth)
    shared.base[threadIdx.x] = base_of(p, task_of(p, plan, first_segment, kWidth).h, threadIdx.x);
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int warp = threadIdx.x / 32 % kParts, lane = threadIdx.x % 32;
  if (group < 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 112;");
    Prepare prepare(shared, p, maps, group, warp, lane);
    if (writes_output)
      prepare.run<true, kRaw>();
    else
      prepare.run<false, kRaw>();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 144;");
    Multiply multiply(shared, maps.y);
    if (writes_output)
      multiply.run<true>();
    else
      multiply.run<false>();
  }
#endif
}

cudaError_t make_maps(Maps& maps, const DecayScanParams& p) {
  cudaError_t error = make_tensor_map(maps.q, p.q, p, kWidth);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.k, p.gate.data ? p.gate : p.k, p, kWidth);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.v, p.v, p, kWidth);
  if (error == cudaSuccess && !p.gate.data)
    error = make_tensor_map(maps.log_decay, p.log_decay, p, kWidth, kDecayBox);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.y, output_view(p), p, kWidth, kOutputBox);
  return error;
}

template <bool kRaw>
cudaError_t launch(const DecayScanParams& p,
                   const DecayScanPlan& plan,
                   int first_segment,
                   int count,
                   cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  Maps maps;
  if (const cudaError_t error = make_maps(maps, p); error != cudaSuccess)
    return error;
  if (const cudaError_t error = allow_shared_memory(wide_hopper_kernel<kRaw>, kBytes);
      error != cudaSuccess)
    return error;
  return launch_overlapping(wide_hopper_kernel<kRaw>,
                            {ctas_of(p, kWidth, 1) * count, kThreads, kBytes, stream},
                            /*overlaps=*/first_segment > 0, maps, p, plan, first_segment);
}

template <bool kRaw>
Path make_path() {
  return {launch<kRaw>, kWidth, resident_ctas(wide_hopper_kernel<kRaw>, kThreads, sizeof(Shared))};
}

bool takes_decay(const DecayScanParams& p) {
  if (p.gate.data)
    return p.gate_kind == GateKind::Forget && takes_boxes(p.gate, p.tokens);
  return p.has_vector_decay && takes_boxes(p.k, p.tokens) &&
         takes_boxes(p.log_decay, p.tokens, kDecayBox);
}

}  // namespace

Path wide_hopper_path(const DecayScanParams& p) {
  return p.gate.data ? make_path<true>() : make_path<false>();
}

bool wide_hopper_takes(const DecayScanParams& p) {
  return takes_decay(p) && !p.bonus.data && !p.bonus_k.data && !p.v_scale.data &&
         p.keys == kWidth && p.columns == kWidth && takes_boxes(p.q, p.tokens) &&
         takes_boxes(p.v, p.tokens) && reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && on_hopper();
}

}  // namespace stuffed::kernels::scan
