#include "kernels/decay_scan/decay_scan_tile.h"

#include <vector>

#include "kernels/common/levels.h"

namespace stuffed::kernels {

namespace {

/// sum [kTileRows, 2 Lanes] += a [kTileRows, n] b [n, 2 Lanes]
template <int Lanes>
STUFFED_INLINE void multiply_tile(const float* a,
                                  int64_t a_stride,
                                  const float* b,
                                  int64_t b_stride,
                                  int64_t n,
                                  Vec<float, Lanes> (&sum)[kTileRows][2]) {
  for (int64_t i = 0; i < n; ++i) {
    const auto* row = reinterpret_cast<const Vec<float, Lanes>*>(b + i * b_stride);
    const Vec<float, Lanes> left = row[0], right = row[1];
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const float factor = a[r * a_stride + i];
      sum[r][0] += factor * left;
      sum[r][1] += factor * right;
    }
  }
}

template <int Lanes>
STUFFED_INLINE void scores_of(const float* q, const float* k_t, int64_t keys, float* scores) {
  for (int64_t row = 0; row < kTileTokens; row += kTileRows)
    for (int64_t column = 0; column < kTileTokens; column += 2 * Lanes) {
      Vec<float, Lanes> sum[kTileRows][2] = {};
      if (column < row + kTileRows)
        multiply_tile<Lanes>(q + row * keys, keys, k_t + column, kTileTokens, keys, sum);
      for (int64_t r = 0; r < kTileRows; ++r) {
        auto* to = reinterpret_cast<Vec<float, Lanes>*>(scores + (row + r) * kTileTokens + column);
        to[0] = sum[r][0];
        to[1] = sum[r][1];
      }
    }
  for (int64_t row = 0; row < kTileTokens; ++row)
    for (int64_t column = row + 1; column < kTileTokens; ++column)
      scores[row * kTileTokens + column] = 0;
}

/// exp(x) for x <= 0, and exactly 0 where that is: a reset leaves nothing.
STUFFED_INLINE float decay_of(float x) {
  const float e = exp_inline(x);
  return x < -87.0F ? 0.0F : e;
}

/// weights[i,j] = scores[i,j] exp(decay from j to i) v_scale[j]; inserted[j] = v[j] v_scale[j]
/// decayed to the end of the chunk; before[i] = the decay from the chunk's start to i. -> the log
/// decay of the whole chunk.
STUFFED_INLINE float weigh(const TileChunk& c, float* before) {
  // Sums run from each past position on, so that no difference of large sums is ever taken.
  float since[kTileTokens] = {};
  float whole = 0;
  for (int64_t i = 0; i < c.tokens; ++i) {
    const float own = c.log_decay[i];
    whole += own;
    before[i] = decay_of(whole);
    const int64_t width = (i / 16 + 1) * 16;  // no tile reads weights further right
    for (int64_t j = 0; j < width; ++j)
      since[j] += j < i ? own : 0.0F;
    const float* scores = c.scores + i * kTileTokens;
    float* weights = c.weights + i * kTileTokens;
    for (int64_t j = 0; j < width; ++j)
      weights[j] = scores[j] * (decay_of(since[j]) * c.v_scale[j]);
  }
  for (int64_t j = 0; j < c.tokens; ++j) {
    const float factor = decay_of(since[j]) * c.v_scale[j];
    for (int64_t column = 0; column < c.columns; ++column)
      c.inserted[j * c.columns + column] = c.v[j * c.columns + column] * factor;
  }
  return whole;
}

/// y = before * (q S) + weights v
template <int Lanes>
STUFFED_INLINE void outputs_of(const TileChunk& c, const float* before) {
  for (int64_t column = 0; column < c.columns; column += 2 * Lanes)
    for (int64_t row = 0; row < c.tokens; row += kTileRows) {
      Vec<float, Lanes> sum[kTileRows][2] = {};
      multiply_tile<Lanes>(c.q + row * c.keys, c.keys, c.state + column, c.columns, c.keys, sum);
      for (int64_t r = 0; r < kTileRows; ++r) {
        sum[r][0] *= before[row + r];
        sum[r][1] *= before[row + r];
      }
      multiply_tile<Lanes>(c.weights + row * kTileTokens, kTileTokens, c.v + column, c.columns,
                           row + kTileRows < c.tokens ? row + kTileRows : c.tokens, sum);
      for (int64_t r = 0; r < kTileRows; ++r) {
        auto* to = reinterpret_cast<Vec<float, Lanes>*>(c.y + (row + r) * c.columns + column);
        to[0] = sum[r][0];
        to[1] = sum[r][1];
      }
    }
}

/// S = decay S + k^T inserted
template <int Lanes>
STUFFED_INLINE void next_state(const TileChunk& c, StateDecay decay) {
  for (int64_t column = 0; column < c.columns; column += 2 * Lanes)
    for (int64_t row = 0; row < c.keys; row += kTileRows) {
      Vec<float, Lanes> sum[kTileRows][2] = {};
      multiply_tile<Lanes>(c.k_t + row * kTileTokens, kTileTokens, c.inserted + column, c.columns,
                           c.tokens, sum);
      for (int64_t r = 0; r < kTileRows; ++r) {
        auto* to = reinterpret_cast<Vec<float, Lanes>*>(c.state + (row + r) * c.columns + column);
        to[0] = (to[0] * decay.change + to[0] * decay.keep) + sum[r][0];
        to[1] = (to[1] * decay.change + to[1] * decay.keep) + sum[r][1];
      }
    }
}

template <int Lanes>
STUFFED_INLINE void advance(const TileChunk& c) {
  float before[kTileTokens] = {};
  const StateDecay decay = state_decay_inline(weigh(c, before));
  outputs_of<Lanes>(c, before);
  next_state<Lanes>(c, decay);
}

using Scores = Levels<scores_of<16>, scores_of<8>, scores_of<4>>;
using Advance = Levels<advance<16>, advance<8>, advance<4>>;

}  // namespace

std::span<const TileOps> tile_ops() {
  static const std::vector<TileOps> all = [] {
    std::vector<TileOps> usable;
    for (size_t i = 0; i < Scores::usable().size(); ++i)
      usable.push_back({Scores::usable()[i], Advance::usable()[i]});
    return usable;
  }();
  return all;
}

}  // namespace stuffed::kernels
