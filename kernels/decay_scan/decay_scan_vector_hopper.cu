// The chunked form for one decay per channel and a bonus, K = V = 64 (RWKV-5, RWKV-6), on Hopper:
// the copy engine loads and stores, and where decays allow it 16 tokens meet at their middle.
//
// A CTA takes one head, 64 tokens at a time, a warp a part of 16 of them. A lane prepares two
// channels: q and k are decayed to the middle of the part, and one product makes the scores of its
// tokens with each other. Where half a part decays by more than 2^60 in some channel, or q or k
// exceed 2^60, the warp takes a tree of 8, 4, 2 and 1 tokens instead, whose factors are all <= 1.
#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kWidth = 64;  // K and V
constexpr int kPart = 16;   // tokens of a warp
constexpr int kParts = kBlock / kPart;
constexpr int kThreads = 32 * kParts;
constexpr int kStages = 2;
constexpr Box kDecayBox = {sizeof(float), kBlock};
constexpr Box kOutputBox = {sizeof(__nv_bfloat16), kPart};

using Tile64 = __nv_bfloat16[kTile / 2];

struct alignas(1024) Shared {
  struct Stage {
    Tile64 q, k, v;
    float log_decay[2][kTile / 4];  // 32 channels each; the first holds a raw gate's 64 in bf16
  };
  Stage stages[kStages];
  Tile64 late_k;  // k decayed to the end of its part
  Tile64 y;       // a walk's output; the second late_k of a sum
  Tile64 state;   // [key][column]
  // Of each part: the decay over it, its log2, and the decay over its first half.
  float decay[2][kParts][kWidth], log2_decay[2][kParts][kWidth], first_half[kParts][kWidth];
  float bonus[kWidth];
  uint64_t full[kStages], empty[kStages];
  Ends ends;  // kept out of registers
};

/// `decay` is of the log decays or of the raw gate.
struct Maps {
  CUtensorMap q, k, v, decay, y;
};

enum class Decay {
  Stored,
  Constant,  // the same for all tokens (RWKV-5)
  Raw        // GateKind::NegativeExp (RWKV-6)
};

#ifdef STUFFED_ON_HOPPER

constexpr float kMiddle = 60.f;      // log2 of what a factor to the middle may be
constexpr float kLargest = 0x1p60f;  // of q and k
constexpr float kLog2OfLog2E = 0.5287663729448977f;

__device__ __forceinline__ float2 exp2_fast(float2 x) {
  return {scan::exp2_fast(x.x), scan::exp2_fast(x.y)};
}

/// Of the pairs (i, j) that first part in groups of kHalf: i in the upper half, j in the lower one.
template <int kHalf>
__device__ __forceinline__ void keep(float (&scores)[2][4], const float (&from)[2][4], int lane) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = (lane >> 2) + 8 * (e >> 1), j = 8 * tile + 2 * (lane & 3) + (e & 1);
      if (i > j && (i ^ j) >= kHalf && (i ^ j) < 2 * kHalf)
        scores[tile][e] = from[tile][e];
    }
}

__device__ __forceinline__ void as_operand(uint32_t (&a)[4], const float (&s)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    a[i] = scan::pack(s[i >> 1][2 * (i & 1)], s[i >> 1][2 * (i & 1) + 1]);
}

/// A warp of the CTA.
template <Decay kDecay>
class Walk {
 public:
  __device__ __forceinline__ Walk(Shared& shared,
                                  const DecayScanParams& p,
                                  const Maps& maps,
                                  const Task& task,
                                  bool writes_output)
      : shared_(shared),
        p_(p),
        maps_(maps),
        at_{0, static_cast<int>(task.h), static_cast<int>(task.begin), static_cast<int>(task.b)},
        left_(blocks_of(task)),
        end_(static_cast<int>(task.end)),
        writes_output_(writes_output),
        warp_(threadIdx.x >> 5),
        lane_(threadIdx.x & 31),
        row_(kPart * warp_ + (lane_ >> 2)),
        pair_(2 * (lane_ & 3)),
        key_(kPart * warp_ + (lane_ & 15)) {}

  __device__ __forceinline__ void walk();
  __device__ __forceinline__ void sum_up();

 private:
  using Stage = Shared::Stage;

  /// By thread 0: queues the loads of the block that begins `ahead` tokens after the present one.
  __device__ __forceinline__ void load(int stage, int ahead);
  __device__ __forceinline__ void load_first();

  /// The lane's two channels of one of the warp's tokens, in a tile.
  __device__ __forceinline__ uint32_t own(uint32_t tile, int token) const {
    return in_tile(tile, kPart * warp_ + token, lane_ >> 2) + (lane_ & 3) * 4;
  }
  __device__ __forceinline__ uint32_t rows_address(uint32_t tile, int row, int step) const {
    return in_tile(tile, row + (lane_ & 15), 2 * step + (lane_ >> 4));
  }
  __device__ __forceinline__ uint32_t columns_address(uint32_t tile, int row, int step) const {
    return in_tile(tile, row + (lane_ & 7) + (lane_ >> 4) * 8, 2 * step + (lane_ >> 3 & 1));
  }

  __device__ __forceinline__ void load_gate(uint32_t (&x)[kPart], const Stage& stage) const;
  __device__ __forceinline__ void read_decays(float2 (&forget)[kPart], const Stage& stage) const;
  __device__ __forceinline__ void score(float (&scores)[2][4], uint32_t q, uint32_t k) const;
  template <int kHalf>
  __device__ __forceinline__ void tree_level(float (&scores)[2][4],
                                             const uint32_t (&q)[kPart],
                                             const uint32_t (&k)[kPart],
                                             const float2 (&decay)[kPart],
                                             uint32_t tile) const;
  __device__ __forceinline__ void meet_in_the_middle(const float2 (&forget)[kPart],
                                                     const uint32_t (&q)[kPart],
                                                     const uint32_t (&k)[kPart],
                                                     float2 first,
                                                     float2 second,
                                                     const Stage& stage) const;
  __device__ __forceinline__ void climb_a_tree(float (&scores)[2][4],
                                               float2 (&decay)[kPart],
                                               const uint32_t (&q)[kPart],
                                               const uint32_t (&k)[kPart],
                                               const Stage& stage) const;
  __device__ __forceinline__ float bonus_of_row(float (&bonus)[kPart]) const;
  __device__ __forceinline__ void prepare(uint32_t (&queries)[4][4],
                                          uint32_t (&weights)[4],
                                          const Stage& stage) const;
  __device__ __forceinline__ void read_earlier(float (&y)[8][4],
                                               uint32_t (&weights)[kParts][4],
                                               const uint32_t (&queries)[4][4]) const;
  template <class Use>
  __device__ __forceinline__ void insert(
      float (&fresh)[8][4], uint32_t keys, uint32_t values, int part, int buffer, Use use) const;
  __device__ __forceinline__ float block_decay(int buffer) const;
  __device__ __forceinline__ void advance(const float (&fresh)[8][4], float log2_decay);
  __device__ __forceinline__ void read_state(const float* from);
  __device__ __forceinline__ void write_state(float* to) const;
  __device__ __forceinline__ void take_block(int stage);

  Shared& shared_;
  const DecayScanParams& p_;
  const Maps& maps_;
  Corner at_;       // of the block
  int left_, end_;  // blocks; the segment's end
  const bool writes_output_;
  const int warp_, lane_, row_, pair_, key_;
  // Of the lane's channels: minus the log2 decay, if constant; what a raw gate's log2 is added to.
  float2 given_ = {0, 0};
  float state_[8][4];  // keys row_ and row_ + 8, columns 8n + pair_, +1
};

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::load(int stage, int ahead) {
  const int token = at_.token + ahead;
  if (token >= end_)
    return;
  Stage& to = shared_.stages[stage];
  uint64_t* const full = shared_.full + stage;
  const auto corner = [&](const View& x, int channel) {
    return Corner{channel, x.h ? at_.head : 0, token, x.b ? at_.sequence : 0};
  };
  constexpr int kDecayTiles = kDecay == Decay::Constant ? 0 : kDecay == Decay::Raw ? 1 : 2;
  arrive_expecting(full, ((writes_output_ ? 3 : 2) + kDecayTiles) * kTile);
  const View& decay = kDecay == Decay::Raw ? p_.gate : p_.log_decay;
  for (int i = 0; i < kDecayTiles; ++i)
    load_box(to.log_decay[i], maps_.decay, full, corner(decay, 32 * i));
  load_box(to.k, maps_.k, full, corner(p_.k, 0));
  if (writes_output_)
    load_box(to.q, maps_.q, full, corner(p_.q, 0));
  load_box(to.v, maps_.v, full, corner(p_.v, 0));
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::load_first() {
  if (threadIdx.x == 0)
    for (int stage = 0; stage < kStages; ++stage)
      load(stage, stage * kBlock);
  if (kDecay == Decay::Constant) {
    const auto* const decay = static_cast<const float*>(p_.log_decay.data) +
                              at_.sequence * p_.log_decay.b + at_.head * p_.log_decay.h +
                              2 * lane_ * p_.log_decay.c;
    given_ = {decay[0] * -kLog2E, decay[p_.log_decay.c] * -kLog2E};
  }
  if (kDecay == Decay::Raw) {
    given_ = {fmaf(base_of(p_, at_.head, 2 * lane_), kLog2E, kLog2OfLog2E),
              fmaf(base_of(p_, at_.head, 2 * lane_ + 1), kLog2E, kLog2OfLog2E)};
  }
}

/// The raw gate of the warp's tokens in the lane's channels. Beyond the segment's end, where the
/// copy engine fills in zeros, it is one that forgets nothing.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::load_gate(uint32_t (&x)[kPart],
                                                        const Stage& stage) const {
  constexpr uint32_t kNothing = 0xff80ff80;  // -inf twice
  const int left = end_ - at_.token - kPart * warp_;
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    x[t] = load_word(own(shared_address(stage.log_decay[0]), t));
  if (left < kPart)
#pragma unroll
    for (int t = 0; t < kPart; ++t)
      x[t] = t < left ? x[t] : kNothing;
}

/// Minus the log2 decays of the warp's tokens in the lane's channels; +inf forgets all, NaN passes.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::read_decays(float2 (&forget)[kPart],
                                                          const Stage& stage) const {
  if constexpr (kDecay == Decay::Raw) {
    uint32_t x[kPart];
    load_gate(x, stage);
#pragma unroll
    for (int t = 0; t < kPart; ++t) {
      const float2 e = unpack(x[t]);
      forget[t] = exp2_fast(float2{fmaf(e.x, kLog2E, given_.x), fmaf(e.y, kLog2E, given_.y)});
    }
  } else if constexpr (kDecay == Decay::Constant) {
#pragma unroll
    for (int t = 0; t < kPart; ++t)
      forget[t] = at_.token + kPart * warp_ + t < end_ ? given_ : make_float2(0, 0);
  } else {
    const uint32_t tile = shared_address(stage.log_decay[lane_ >> 4]);
#pragma unroll
    for (int t = 0; t < kPart; ++t) {
      const float2 x =
          load_two(in_tile(tile, kPart * warp_ + t, (lane_ & 15) >> 1) + (lane_ & 1) * 8);
      forget[t] = {x.x * -kLog2E, x.y * -kLog2E};
    }
  }
}

/// Of the warp's tokens with each other.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::score(float (&scores)[2][4],
                                                    uint32_t q,
                                                    uint32_t k) const {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4], b[4];
    load_matrices(a, rows_address(q, kPart * warp_, step));
    load_matrices(b, columns_address(k, kPart * warp_, step));
    mma(scores[0], a, b[0], b[1]);
    mma(scores[1], a, b[2], b[3]);
  }
}

/// Queries of each upper half are decayed from its start, keys of each lower half to its end; one
/// tile holds both.
template <Decay kDecay>
template <int kHalf>
__device__ __forceinline__ void Walk<kDecay>::tree_level(float (&scores)[2][4],
                                                         const uint32_t (&q)[kPart],
                                                         const uint32_t (&k)[kPart],
                                                         const float2 (&decay)[kPart],
                                                         uint32_t tile) const {
#pragma unroll
  for (int start = 0; start < kPart; start += 2 * kHalf) {
    float2 factor = {1, 1};
#pragma unroll
    for (int t = start + kHalf - 1; t >= start; --t) {
      store_word(own(tile, t), pack(unpack(k[t]) * factor));
      factor = factor * decay[t];
    }
    factor = {1, 1};
#pragma unroll
    for (int t = start + kHalf; t < start + 2 * kHalf; ++t) {
      store_word(own(tile, t), pack(unpack(q[t]) * factor));
      factor = factor * decay[t];
    }
  }
  __syncwarp();
  float level[2][4] = {};
  score(level, tile, tile);
  keep<kHalf>(scores, level, lane_);
  __syncwarp();
}

/// Writes q and k, both decayed to the part's middle, in their own place, and k decayed to the
/// part's end. `first` and `second` are minus the log2 decays of the halves.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::meet_in_the_middle(const float2 (&forget)[kPart],
                                                                 const uint32_t (&q)[kPart],
                                                                 const uint32_t (&k)[kPart],
                                                                 float2 first,
                                                                 float2 second,
                                                                 const Stage& stage) const {
  const float2 to_end = exp2_fast(float2{-second.x, -second.y});
  *reinterpret_cast<float2*>(&shared_.first_half[warp_][2 * lane_]) =
      exp2_fast(float2{-first.x, -first.y});
  float2 e = first;  // log2 of q's factor: from before the token to the middle, turned round
#pragma unroll
  for (int t = 0; t < kPart; ++t) {
    store_word(own(shared_address(stage.q), t), pack(unpack(q[t]) * exp2_fast(e)));
    e.x -= forget[t].x, e.y -= forget[t].y;
    const float2 middle = unpack(k[t]) * exp2_fast(float2{-e.x, -e.y});
    store_word(own(shared_address(stage.k), t), pack(middle));
    store_word(own(shared_address(shared_.late_k), t), pack(middle * to_end));
  }
}

/// Makes the scores, writes q decayed from the part's start in its own place, and k decayed to the
/// part's end.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::climb_a_tree(float (&scores)[2][4],
                                                           float2 (&decay)[kPart],
                                                           const uint32_t (&q)[kPart],
                                                           const uint32_t (&k)[kPart],
                                                           const Stage& stage) const {
  const uint32_t late = shared_address(shared_.late_k), queries = shared_address(stage.q);
  float neighbours[2][4] = {};  // nothing decays between them
  score(neighbours, queries, shared_address(stage.k));
  keep<1>(scores, neighbours, lane_);
#pragma unroll
  for (int t = 0; t < kPart; ++t)
    decay[t] = exp2_fast(float2{-decay[t].x, -decay[t].y});
  tree_level<2>(scores, q, k, decay, late);
  tree_level<4>(scores, q, k, decay, late);
  tree_level<8>(scores, q, k, decay, late);
  *reinterpret_cast<float2*>(&shared_.first_half[warp_][2 * lane_]) = {1, 1};
  float2 factor = {1, 1};
#pragma unroll
  for (int t = 0; t < kPart; ++t) {
    store_word(own(queries, t), pack(unpack(q[t]) * factor));
    factor = factor * decay[t];
  }
  factor = {1, 1};
#pragma unroll
  for (int t = kPart - 1; t >= 0; --t) {
    store_word(own(late, t), pack(unpack(k[t]) * factor));
    factor = factor * decay[t];
  }
}

/// Sums over channels, of which each lane gives two: the lane ends with token lane / 2.
template <Decay kDecay>
__device__ __forceinline__ float Walk<kDecay>::bonus_of_row(float (&bonus)[kPart]) const {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const int width = 16 >> step;
    const bool upper = lane_ & width;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < width / 2) {
        const float sent = upper ? bonus[j] : bonus[j + width / 2];
        const float kept = upper ? bonus[j + width / 2] : bonus[j];
        bonus[j] = kept + __shfl_xor_sync(~0u, sent, width);
      }
  }
  return bonus[0] + __shfl_xor_sync(~0u, bonus[0], 1);
}

/// Leaves in shared memory: late_k, decay, log2_decay, first_half. Returns the warp's queries,
/// decayed to first_half, and the weights of its tokens with each other.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::prepare(uint32_t (&queries)[4][4],
                                                      uint32_t (&weights)[4],
                                                      const Stage& stage) const {
  float scores[2][4] = {}, own_bonus;
  bool is_tree;
  {
    const float2 u = *reinterpret_cast<const float2*>(shared_.bonus + 2 * lane_);
    float2 forget[kPart], first = {0, 0}, second = {0, 0};
    uint32_t q[kPart], k[kPart];
    read_decays(forget, stage);
    __nv_bfloat162 most = __floats2bfloat162_rn(0, 0);
    float bonus[kPart];
#pragma unroll
    for (int t = 0; t < kPart; ++t) {
      q[t] = load_word(own(shared_address(stage.q), t));
      k[t] = load_word(own(shared_address(stage.k), t));
      most = __hmax2(most, __habs2(*reinterpret_cast<__nv_bfloat162*>(&q[t])));
      most = __hmax2(most, __habs2(*reinterpret_cast<__nv_bfloat162*>(&k[t])));
      const float2 a = unpack(q[t]), b = unpack(k[t]);
      bonus[t] = fmaf(a.x * u.x, b.x, a.y * u.y * b.y);
    }
#pragma unroll
    for (int t = 0; t < kPart / 2; ++t) {
      first.x += forget[t].x, first.y += forget[t].y;
      second.x += forget[t + kPart / 2].x, second.y += forget[t + kPart / 2].y;
    }
    const float2 whole = {first.x + second.x, first.y + second.y};
    const float2 large = unpack(*reinterpret_cast<const uint32_t*>(&most));
    const float half = fmaxf(fmaxf(first.x, first.y), fmaxf(second.x, second.y));
    is_tree = __any_sync(~0u, half > kMiddle || fmaxf(large.x, large.y) > kLargest);
    *reinterpret_cast<float2*>(&shared_.decay[0][warp_][2 * lane_]) =
        exp2_fast(float2{-whole.x, -whole.y});
    *reinterpret_cast<float2*>(&shared_.log2_decay[0][warp_][2 * lane_]) = {-whole.x, -whole.y};
    if (is_tree)
      climb_a_tree(scores, forget, q, k, stage);
    else
      meet_in_the_middle(forget, q, k, first, second, stage);
    own_bonus = bonus_of_row(bonus);
  }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    load_matrices(queries[step], rows_address(shared_address(stage.q), kPart * warp_, step));
  if (!is_tree)
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t b[4];
      load_matrices(b, columns_address(shared_address(stage.k), kPart * warp_, step));
      mma(scores[0], queries[step], b[0], b[1]);
      mma(scores[1], queries[step], b[2], b[3]);
    }
  const int group = lane_ >> 2;
  const float self[2] = {__shfl_sync(~0u, own_bonus, 2 * group),
                         __shfl_sync(~0u, own_bonus, 2 * group + 16)};
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = group + 8 * (e >> 1), j = 8 * tile + pair_ + (e & 1);
      scores[tile][e] = i > j ? scores[tile][e] : i == j ? self[e >> 1] : 0.f;
    }
  as_operand(weights, scores);
}

/// y = q S, and the weights of the tokens of earlier parts.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::read_earlier(float (&y)[8][4],
                                                           uint32_t (&weights)[kParts][4],
                                                           const uint32_t (&queries)[4][4]) const {
  float2 x[4][4];  // the queries in f32, decayed from the start of their part, then of ever earlier
                   // ones
  const auto times = [&](const float* factor) {
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x[step][i] = x[step][i] *
                     *reinterpret_cast<const float2*>(factor + 16 * step + 8 * (i >> 1) + pair_);
  };
  const auto operand = [&](uint32_t(&a)[4], int step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = pack(x[step][i]);
  };
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      x[step][i] = unpack(queries[step][i]);
  times(shared_.first_half[warp_]);
#pragma unroll
  for (int part = kParts - 2; part >= 0; --part)
    if (part < warp_) {
      float scores[2][4] = {};
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t a[4], b[4];
        operand(a, step);
        load_matrices(b, columns_address(shared_address(shared_.late_k), kPart * part, step));
        mma(scores[0], a, b[0], b[1]);
        mma(scores[1], a, b[2], b[3]);
      }
      as_operand(weights[part], scores);
      times(shared_.decay[0][part]);
    }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4];
    operand(a, step);
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(
          b, in_tile(shared_address(shared_.state), 16 * step + (lane_ & 15), n + (lane_ >> 4)));
      mma(y[n], a, b[0], b[1]);
      mma(y[n + 1], a, b[2], b[3]);
    }
  }
}

/// What came before decays over the part, and the part's keys and values are added; use(n, b) gets
/// the operand of columns [8n, 8n + 16) of the values.
template <Decay kDecay>
template <class Use>
__device__ __forceinline__ void Walk<kDecay>::insert(
    float (&fresh)[8][4], uint32_t keys, uint32_t values, int part, int buffer, Use use) const {
  if (part > 0) {
    const float decay[2] = {shared_.decay[buffer][part][row_],
                            shared_.decay[buffer][part][row_ + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        fresh[n][e] *= decay[e >> 1];
  }
  uint32_t a[4];
  load_matrices_transposed(a, columns_address(keys, kPart * part, warp_));
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    uint32_t b[4];
    load_matrices_transposed(b, in_tile(values, kPart * part + (lane_ & 15), n + (lane_ >> 4)));
    mma(fresh[n], a, b[0], b[1]);
    mma(fresh[n + 1], a, b[2], b[3]);
    use(n, b);
  }
}

/// log2, of key key_.
template <Decay kDecay>
__device__ __forceinline__ float Walk<kDecay>::block_decay(int buffer) const {
  const auto& parts = shared_.log2_decay[buffer];
  return (parts[0][key_] + parts[1][key_]) + (parts[2][key_] + parts[3][key_]);
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::advance(const float (&fresh)[8][4],
                                                      float log2_decay) {
  const float mine = decay_change(log2_decay);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float change = __shfl_sync(~0u, mine, (lane_ >> 2) + 8 * half);
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e)
        state_[n][e] = decay_state(state_[n][e], change, fresh[n][e]);
  }
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::read_state(const float* from) {
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 x =
          from ? *reinterpret_cast<const float2*>(from + (row_ + 8 * half) * kWidth + 8 * n + pair_)
               : float2{0, 0};
      state_[n][2 * half] = x.x, state_[n][2 * half + 1] = x.y;
    }
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::write_state(float* to) const {
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<float2*>(to + (row_ + 8 * half) * kWidth + 8 * n + pair_) = {
          state_[n][2 * half], state_[n][2 * half + 1]};
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::take_block(int stage) {
  const Stage& tiles = shared_.stages[stage];
  uint32_t queries[4][4], weights[kParts][4], own_weights[4];
  prepare(queries, own_weights, tiles);
  __syncthreads();  // late_k, the decays and the state's copy are there
  float y[8][4] = {}, fresh[8][4] = {};
  read_earlier(y, weights, queries);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = part == warp_ ? own_weights[i] : weights[part][i];
    insert(fresh, shared_address(shared_.late_k), shared_address(tiles.v), part, 0,
           [&](int n, const uint32_t(&b)[4]) {
             if (part <= warp_) {
               mma(y[n], a, b[0], b[1]);
               mma(y[n + 1], a, b[2], b[3]);
             }
           });
  }
  if (lane_ == 0)
    wait_stores_read();  // of the block before
  const float log2_decay = block_decay(0);
  __syncwarp();
  store_tile(y, shared_address(shared_.y), warp_, lane_);
  fence_async();    // y is read by a copy; q and k, written in place, are filled by one
  __syncthreads();  // the stage, the state's copy, late_k and the decays have been read
  if (lane_ == 0)
    store_box(maps_.y, shared_.y + warp_ * kPart * kWidth,
              {0, at_.head, at_.token + kPart * warp_, at_.sequence});
  if (threadIdx.x == 0)
    load(stage, kStages * kBlock);
  advance(fresh, log2_decay);
  store_tile(state_, shared_address(shared_.state), warp_, lane_);
}

template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::walk() {
  load_first();
  wait_for_earlier_kernels();
  read_state(shared_.ends.start);
  store_tile(state_, shared_address(shared_.state), warp_, lane_);
  Ring<kStages> ring;
  for (; left_ > 0; --left_, ring.next(), at_.token += kBlock) {
    wait(shared_.full + ring.stage, ring.parity);
    take_block(ring.stage);
  }
  if (lane_ == 0)
    wait_stores();
  if (shared_.ends.end)
    write_state(shared_.ends.end);
}

/// What the segment adds to the state, and its decay. One barrier a block: late_k and the decays
/// have two buffers.
template <Decay kDecay>
__device__ __forceinline__ void Walk<kDecay>::sum_up() {
  load_first();
  read_state(nullptr);
  float sum = 0;
  Ring<kStages> ring;
  for (int buffer = 0; left_ > 0; --left_, ring.next(), buffer ^= 1, at_.token += kBlock) {
    const Stage& tiles = shared_.stages[ring.stage];
    const uint32_t late = shared_address(buffer ? shared_.y : shared_.late_k);
    wait(shared_.full + ring.stage, ring.parity);
    float2 forget[kPart], e = {0, 0};
    read_decays(forget, tiles);
#pragma unroll
    for (int t = kPart - 1; t >= 0; --t) {
      const float2 k = unpack(load_word(own(shared_address(tiles.k), t)));
      store_word(own(late, t), pack(k * exp2_fast(float2{-e.x, -e.y})));
      e.x += forget[t].x, e.y += forget[t].y;
    }
    *reinterpret_cast<float2*>(&shared_.decay[buffer][warp_][2 * lane_]) =
        exp2_fast(float2{-e.x, -e.y});
    *reinterpret_cast<float2*>(&shared_.log2_decay[buffer][warp_][2 * lane_]) = {-e.x, -e.y};
    __syncthreads();
    float fresh[8][4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      insert(fresh, late, shared_address(tiles.v), part, buffer, [](int, const uint32_t(&)[4]) {});
    arrive_as_warp(shared_.empty + ring.stage, lane_);
    const float log2_decay = block_decay(buffer);
    sum += log2_decay;
    advance(fresh, log2_decay);
    if (threadIdx.x == 0) {
      wait(shared_.empty + ring.stage, ring.parity);
      load(ring.stage, kStages * kBlock);
    }
  }
  write_state(shared_.ends.end);
  if (lane_ < kPart)
    shared_.ends.decay[key_] = sum;
}

#endif  // STUFFED_ON_HOPPER

template <Decay kDecay>
__global__ void __launch_bounds__(kThreads, 2)
    vector_hopper_kernel(const __grid_constant__ Maps maps,
                         const __grid_constant__ DecayScanParams p,
                         const __grid_constant__ DecayScanPlan plan,
                         int first_segment) {
#ifdef STUFFED_ON_HOPPER
  extern __shared__ __align__(1024) char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  let_next_kernel_begin();
  const Task task = task_of(p, plan, first_segment, kWidth);
  const bool writes_output = task.is_first || first_segment > 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(shared.full + i, 1);
      init_barrier(shared.empty + i, kParts * kArrivals);
    }
    publish_barriers();
    shared.ends = ends_of(p, plan, task, writes_output, first_segment);
  }
  if (threadIdx.x < kWidth)
    shared.bonus[threadIdx.x] =
        static_cast<const float*>(p.bonus.data)[task.h * p.bonus.h + threadIdx.x * p.bonus.c];
  __syncthreads();
  Walk<kDecay> walk(shared, p, maps, task, writes_output);
  if (writes_output)
    walk.walk();
  else
    walk.sum_up();
#endif
}

Decay decay_of(const DecayScanParams& p) {
  return p.gate.data ? Decay::Raw : p.log_decay.t == 0 ? Decay::Constant : Decay::Stored;
}

bool takes_decay(const DecayScanParams& p) {
  switch (decay_of(p)) {
    case Decay::Constant:
      return p.has_vector_decay;
    case Decay::Raw:
      return p.gate_kind == GateKind::NegativeExp && takes_boxes(p.gate, p.tokens);
    default:
      return p.has_vector_decay && takes_boxes(p.log_decay, p.tokens, kDecayBox);
  }
}

cudaError_t make_maps(Maps& maps, const DecayScanParams& p) {
  cudaError_t error = make_tensor_map(maps.q, p.q, p, kWidth);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.k, p.k, p, kWidth);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.v, p.v, p, kWidth);
  if (error == cudaSuccess)
    error = make_tensor_map(maps.y, output_view(p), p, kWidth, kOutputBox);
  const Decay decay = decay_of(p);
  if (error == cudaSuccess && decay == Decay::Stored)
    error = make_tensor_map(maps.decay, p.log_decay, p, kWidth, kDecayBox);
  if (error == cudaSuccess && decay == Decay::Raw)
    error = make_tensor_map(maps.decay, p.gate, p, kWidth);
  return error;
}

template <Decay kDecay>
cudaError_t launch(const DecayScanParams& p,
                   const DecayScanPlan& plan,
                   int first_segment,
                   int count,
                   cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  Maps maps;
  if (const cudaError_t error = make_maps(maps, p); error != cudaSuccess)
    return error;
  if (const cudaError_t error = allow_shared_memory(vector_hopper_kernel<kDecay>, kBytes);
      error != cudaSuccess)
    return error;
  const int64_t ctas = ctas_of(p, kWidth, 1) * count;
  return launch_overlapping(vector_hopper_kernel<kDecay>, {ctas, kThreads, kBytes, stream},
                            /*overlaps=*/first_segment > 0, maps, p, plan, first_segment);
}

template <Decay kDecay>
Path make_path() {
  return {launch<kDecay>, kWidth,
          resident_ctas(vector_hopper_kernel<kDecay>, kThreads, sizeof(Shared))};
}

}  // namespace

Path vector_hopper_path(const DecayScanParams& p) {
  switch (decay_of(p)) {
    case Decay::Constant:
      return make_path<Decay::Constant>();
    case Decay::Raw:
      return make_path<Decay::Raw>();
    default:
      return make_path<Decay::Stored>();
  }
}

bool vector_hopper_takes(const DecayScanParams& p) {
  return takes_decay(p) && p.bonus.data && !p.bonus_k.data && !p.v_scale.data && p.keys == kWidth &&
         p.columns == kWidth && takes_boxes(p.q, p.tokens) && takes_boxes(p.k, p.tokens) &&
         takes_boxes(p.v, p.tokens) && reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && on_hopper();
}

}  // namespace stuffed::kernels::scan
