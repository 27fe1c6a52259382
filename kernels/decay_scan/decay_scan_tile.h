// One head's chunk in products of register tiles, once for each width of vectors. No Torch.
#pragma once
#include <cstdint>
#include <span>

namespace stuffed::kernels {

constexpr int64_t kTileTokens = 64;  // of a chunk
constexpr int64_t kTileRows = 8;     // rows of a tile: widths of keys are padded to these
constexpr int64_t kTileColumns =
    32;  // most columns of a tile: widths of values are padded to these

/// Buffers of one head and chunk, rows dense and padded with zeros; lengths in elements.
struct TileChunk {
  int64_t tokens;          // <= kTileTokens
  int64_t keys, columns;   // padded
  const float* q;          // [kTileTokens, keys]
  const float* k_t;        // [keys, kTileTokens]
  const float* scores;     // [kTileTokens, kTileTokens]: q k^T, zero above the diagonal
  const float* log_decay;  // [kTileTokens], zero behind `tokens`
  const float* v_scale;    // [kTileTokens]
  const float* v;          // [kTileTokens, columns]
  float* weights;          // [kTileTokens, kTileTokens], scratch
  float* inserted;         // [kTileTokens, columns], scratch
  float* state;            // [keys, columns], advanced in place
  float* y;                // [kTileTokens, columns]
};

/// The two steps, compiled for one level of the instruction set.
struct TileOps {
  /// q [kTileTokens, keys], k_t [keys, kTileTokens] -> scores [kTileTokens, kTileTokens].
  void (*scores)(const float* q, const float* k_t, int64_t keys, float* scores);
  /// y and the next state of one head.
  void (*advance)(const TileChunk& chunk);
};

/// Those this processor can run, the fastest first; at least one.
std::span<const TileOps> tile_ops();

}  // namespace stuffed::kernels
