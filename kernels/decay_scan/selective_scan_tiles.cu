// The recurrence with a factored decay where channels lie side by side (Mamba-1: K = 16, V = 1), T
// whole: 32 channels a CTA, whose tokens are staged in tiles, and a few lanes a channel.
//
// What limits is the way from shared memory to registers, so that k and q travel as pairs of bf16.
// Tiles are double-buffered, with one barrier a tile.
#include "kernels/decay_scan/decay_scan_device.cuh"

namespace stuffed::kernels::scan {

namespace {

constexpr int kKeys = 16, kChannels = 32;
constexpr int kStaged = 8;  // channels that a thread stages, of one token

/// A state that is carried through a token's decay in one multiplication loses 2e-8 of itself a
/// token. Where some state of a warp keeps more than 2^-kWeak of itself over a tile, what the tile
/// inserts is also summed apart, and the state decays once a tile by its change; elsewhere the loss
/// stays below 64 * 2e-8 / (1 - 2^-kWeak).
constexpr float kWeak = 0.05f;

template <int kTokens>
struct Tile1 {
  float2 steps[kTokens][kChannels + 2];  // step, value times v_scale
  // Words for two keys each. kStates 2: of k and of q in turn; 4: two of k, two of q.
  alignas(16) uint32_t keys[kTokens][kKeys];
  float y[kTokens][kChannels + 4];
};

/// A view's row of a token, `channel` on.
template <class T>
__device__ __forceinline__ const T* row_of(const View& view, int64_t b, int64_t channel) {
  return static_cast<const T*>(view.data) + b * view.b + channel;
}

/// kStates states a thread, so that 16 / kStates lanes share a channel. kOwnScale: v_scale is not
/// the step.
template <int kTokens, int kStates, bool kOwnScale>
class Channels {
  static constexpr int kLanes = kKeys / kStates;

 public:
  static constexpr int kThreads = kChannels * kLanes;
  using Tile = Tile1<kTokens>;
  static_assert(kThreads / (kChannels / kStaged) == kTokens, "a thread stages one token's part");

  __device__ __forceinline__ Channels(const DecayScanParams& p, Tile* tiles)
      : p_(p),
        tiles_(tiles),
        tokens_(static_cast<int>(p.tokens)),
        b_(blockIdx.x / (p.heads / kChannels)),
        first_(blockIdx.x % (p.heads / kChannels) * kChannels),
        row_(threadIdx.x / (kChannels / kStaged)),
        column_(threadIdx.x % (kChannels / kStaged) * kStaged),
        channel_(threadIdx.x / kLanes),
        lane_(threadIdx.x % kLanes) {}

  __device__ __forceinline__ void run() {
    read_states();
    fetch(0);
    put(tiles_[0]);
    __syncthreads();
    int begin = 0, buffer = 0;
#pragma unroll 1
    for (; begin < tokens_; begin += kTokens, buffer ^= 1) {
      if (begin + kTokens < tokens_)
        fetch(begin + kTokens);
      if (begin > 0)
        write_output(tiles_[buffer ^ 1], begin - kTokens);
      advance(tiles_[buffer]);
      if (begin + kTokens < tokens_)
        put(tiles_[buffer ^ 1]);
      __syncthreads();
    }
    write_output(tiles_[buffer ^ 1], begin - kTokens);
    write_states();
  }

 private:
  __device__ __forceinline__ int64_t state_at() const {
    return ((b_ * p_.heads + first_ + channel_) * kKeys) + lane_ * kStates;
  }

  __device__ __forceinline__ void read_states() {
    const auto* const rate = static_cast<const float*>(p_.rate.data) +
                             (first_ + channel_) * p_.rate.h + lane_ * kStates * p_.rate.c;
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      rate_[i] =
          fmaxf(rate[i * p_.rate.c] * kLog2E, -1e30f);  // finite: a step of 0 keeps everything
      state_[i] = p_.state_in[state_at() + i];
      slowest_ = fmaxf(slowest_, rate_[i]);
    }
  }

  __device__ __forceinline__ void write_states() const {
#pragma unroll
    for (int i = 0; i < kStates; ++i)
      p_.state_out[state_at() + i] = state_[i];
  }

  /// Into registers: the thread's part of the tile that begins at this token.
  __device__ __forceinline__ void fetch(int begin) {
    const int64_t t = begin + row_;
    const int64_t channel = first_ + column_;
    value_ = keys_ = make_uint4(0, 0, 0, 0);
    step_[0] = step_[1] = scale_[0] = scale_[1] = make_float4(0, 0, 0, 0);
    if (t >= tokens_)
      return;
    value_ = __ldcs(
        reinterpret_cast<const uint4*>(row_of<__nv_bfloat16>(p_.v, b_, channel) + t * p_.v.t));
    const auto* step =
        reinterpret_cast<const float4*>(row_of<float>(p_.step, b_, channel) + t * p_.step.t);
    step_[0] = __ldcs(step), step_[1] = __ldcs(step + 1);
    if (kOwnScale) {
      const auto* scale = reinterpret_cast<const float4*>(row_of<float>(p_.v_scale, b_, channel) +
                                                          t * p_.v_scale.t);
      scale_[0] = __ldcs(scale), scale_[1] = __ldcs(scale + 1);
    }
    const View& keys = column_ < kKeys ? p_.k : p_.q;
    keys_ = __ldg(reinterpret_cast<const uint4*>(row_of<__nv_bfloat16>(keys, b_, column_ % kKeys) +
                                                 t * keys.t));
  }

  /// What was fetched, as the walk reads it.
  __device__ __forceinline__ void put(Tile& to) const {
    const auto* step = reinterpret_cast<const float*>(step_);
    const auto* scale = kOwnScale ? reinterpret_cast<const float*>(scale_) : step;
    const uint32_t words[] = {value_.x, value_.y, value_.z, value_.w};
#pragma unroll
    for (int i = 0; i < kStaged; i += 2) {
      const float2 x = unpack(words[i / 2]);
      *reinterpret_cast<float4*>(&to.steps[row_][column_ + i]) =
          make_float4(step[i], scale[i] * x.x, step[i + 1], scale[i + 1] * x.y);
    }
    uint32_t* const at = to.keys[row_] + column_ % kKeys;
    const bool is_q = column_ >= kKeys;
    if (kStates == 2) {
      at[is_q] = keys_.x, at[2 + is_q] = keys_.y, at[4 + is_q] = keys_.z, at[6 + is_q] = keys_.w;
    } else {
      *reinterpret_cast<uint2*>(at + 2 * is_q) = make_uint2(keys_.x, keys_.y);
      *reinterpret_cast<uint2*>(at + 4 + 2 * is_q) = make_uint2(keys_.z, keys_.w);
    }
  }

  __device__ __forceinline__ void write_output(const Tile& from, int begin) const {
    const int64_t t = begin + row_;
    if (t >= tokens_)
      return;
    const auto* y = reinterpret_cast<const float4*>(&from.y[row_][column_]);
    const float4 low = y[0], high = y[1];
    __stcs(reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(p_.y) +
                                    (b_ * p_.tokens + t) * p_.heads + first_ + column_),
           make_uint4(pack(low.x, low.y), pack(low.z, low.w), pack(high.x, high.y),
                      pack(high.z, high.w)));
  }

  /// Sums over a channel's lanes, of kLanes tokens: each lane ends with one of them.
  __device__ __forceinline__ void sum_lanes(Tile& tile, float (&y)[kLanes], int token) const {
#pragma unroll
    for (int width = kLanes / 2; width >= 1; width /= 2)
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const bool upper = lane_ & width;
        const float sent = upper ? y[j] : y[j + width], kept = upper ? y[j + width] : y[j];
        y[j] = kept + __shfl_xor_sync(~0u, sent, width);
      }
    tile.y[token + lane_][channel_] = y[0];
  }

  /// One token; returns the lane's share of its output.
  template <bool kApart>
  __device__ __forceinline__ float take(const Tile& tile, int token, float (&apart)[kStates]) {
    const float2 step = tile.steps[token][channel_];
    uint32_t words[kStates];
    if (kStates == 2)
      *reinterpret_cast<uint2*>(words) =
          *reinterpret_cast<const uint2*>(&tile.keys[token][lane_ * kStates]);
    else
      *reinterpret_cast<uint4*>(words) =
          *reinterpret_cast<const uint4*>(&tile.keys[token][lane_ * kStates]);
    float k[kStates], q[kStates], sum = 0;
#pragma unroll
    for (int i = 0; i < kStates / 2; ++i) {
      const float2 two_k = unpack(words[i]), two_q = unpack(words[kStates / 2 + i]);
      k[2 * i] = two_k.x, k[2 * i + 1] = two_k.y;
      q[2 * i] = two_q.x, q[2 * i + 1] = two_q.y;
    }
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      const float decay = exp2_fast(step.x * rate_[i]);
#ifdef STUFFED_BREAK_SCAN  // for tests that must fail
      const float inserted = step.y * k[i] * 1.01f;
#else
      const float inserted = step.y * k[i];
#endif
      state_[i] = fmaf(decay, state_[i], inserted);
      if (kApart)
        apart[i] = fmaf(decay, apart[i], inserted);
      sum = i == 0 ? q[0] * state_[0] : fmaf(q[i], state_[i], sum);
    }
    return sum;
  }

  /// The sum over lanes of one group of tokens runs while the next group is walked.
  template <bool kApart>
  __device__ __forceinline__ void walk(Tile& tile, float (&apart)[kStates]) {
    constexpr int kHalf = kTokens / 2, kGroups = kHalf / kLanes;
#pragma unroll 1
    for (int half = 0; half < kTokens; half += kHalf) {
      float y[2][kLanes];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
#pragma unroll
        for (int j = 0; j < kLanes; ++j)
          y[group & 1][j] = take<kApart>(tile, half + group * kLanes + j, apart);
        if (group > 0)
          sum_lanes(tile, y[(group - 1) & 1], half + (group - 1) * kLanes);
      }
      sum_lanes(tile, y[(kGroups - 1) & 1], half + kHalf - kLanes);
    }
  }

  /// Of the channel's steps over a tile.
  __device__ __forceinline__ float sum_of_steps(const Tile& tile) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kTokens / kLanes; ++i)
      sum += tile.steps[lane_ + i * kLanes][channel_].x;
#pragma unroll
    for (int width = 1; width < kLanes; width *= 2)
      sum += __shfl_xor_sync(~0u, sum, width);
    return sum;
  }

  __device__ __forceinline__ void advance(Tile& tile) {
    const float steps = sum_of_steps(tile);
    float apart[kStates] = {};
    if (!__any_sync(~0u, !(steps * slowest_ < -kWeak))) {
      walk<false>(tile, apart);
      return;
    }
    float start[kStates];
#pragma unroll
    for (int i = 0; i < kStates; ++i)
      start[i] = state_[i];
    walk<true>(tile, apart);
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      const float change = decay_change(steps * rate_[i]);
      state_[i] = fmaf(start[i], change, __float_as_int(change) < 0 ? start[i] : 0.f) + apart[i];
    }
  }

  const DecayScanParams& p_;
  Tile* const tiles_;  // two
  const int tokens_;
  const int64_t b_, first_;  // sequence, and the CTA's first channel
  const int row_, column_;   // what the thread stages
  const int channel_, lane_;
  float rate_[kStates], state_[kStates], slowest_ = -1e30f;  // rates in log2
  uint4 value_, keys_;
  float4 step_[2], scale_[2];
};

template <int kTokens, int kStates, bool kOwnScale, int kMinCtas>
__global__ void __launch_bounds__(kChannels* kKeys / kStates, kMinCtas)
    tiled_factored_kernel(const __grid_constant__ DecayScanParams p) {
  extern __shared__ __align__(16) char memory[];
  Channels<kTokens, kStates, kOwnScale>(p, reinterpret_cast<Tile1<kTokens>*>(memory)).run();
}

/// Whether v_scale is the step itself, as in the model, and is read once.
bool scales_by_step(const DecayScanParams& p) {
  return p.v_scale.data == p.step.data && p.v_scale.b == p.step.b && p.v_scale.t == p.step.t;
}

template <int kTokens, int kStates, bool kOwnScale, int kMinCtas>
cudaError_t launch_kernel(const DecayScanParams& p, cudaStream_t stream) {
  const auto kernel = tiled_factored_kernel<kTokens, kStates, kOwnScale, kMinCtas>;
  constexpr int kBytes = 2 * sizeof(Tile1<kTokens>), kThreads = kChannels * kKeys / kStates;
  if (const cudaError_t error = allow_shared_memory(kernel, kBytes); error != cudaSuccess)
    return error;
  kernel<<<p.heads / kChannels * p.batch, kThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

/// With a CTA an SM or fewer, two states a thread are faster; with more, four.
cudaError_t launch(const DecayScanParams& p, const DecayScanPlan&, int, int, cudaStream_t stream) {
  const bool is_full =
      p.heads / kChannels * p.batch > device_attribute(cudaDevAttrMultiProcessorCount);
  if (scales_by_step(p))
    return is_full ? launch_kernel<32, 4, false, 4>(p, stream)
                   : launch_kernel<64, 2, false, 1>(p, stream);
  return is_full ? launch_kernel<32, 4, true, 3>(p, stream)
                 : launch_kernel<64, 2, true, 1>(p, stream);
}

/// Whether every token's channels lie side by side, in parts of 16 bytes.
bool is_aligned(const View& view, int64_t channel_stride, int64_t element) {
  const auto in_parts = [&](int64_t stride) { return stride * element % 16 == 0; };
  return channel_stride == 1 && in_parts(view.b) && in_parts(view.t) &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

constexpr int64_t kFewTokens = 8;  // most of a tile would be padding

}  // namespace

Path tiled_factored_path(const DecayScanParams&) {
  return {launch, 1, 1, kChannels};
}

bool tiled_factored_takes(const DecayScanParams& p) {
  return p.is_bf16 && p.keys == kKeys && p.columns == 1 && p.offset == 0 && p.v_scale.data &&
         p.heads % kChannels == 0 && p.tokens > kFewTokens && p.tokens < (1LL << 31) - kBlock &&
         p.q.h == 0 && p.k.h == 0 && is_aligned(p.q, p.q.c, 2) && is_aligned(p.k, p.k.c, 2) &&
         is_aligned(p.v, p.v.h, 2) && is_aligned(p.step, p.step.h, 4) &&
         is_aligned(p.v_scale, p.v_scale.h, 4) && reinterpret_cast<uintptr_t>(p.y) % 16 == 0;
}

}  // namespace stuffed::kernels::scan
