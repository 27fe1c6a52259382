// Scores among 16 tokens when every channel decays by itself: the decays between two tokens are
// split at the middle of the smallest group of 2, 4, 8 or 16 tokens that holds both, so no factor
// ever exceeds 1.
#pragma once
#include "kernels/decay_scan/decay_scan_device.cuh"

namespace stuffed::kernels::scan {

// A lane's four
// consecutive channels 4t..4t+3 of a group of 16 take the reduction slots 2t, 2t+1, 2t+8, 2t+9 of a
// product, so that a token's row lies in one lane for loads and products alike. Tiles that products
// read are stored in slot order.
__device__ inline int channel_of_slot(int slot) {
  return 4 * ((slot & 7) >> 1) + (slot & 1) + (slot & 8) / 4;
}

__device__ inline void load_four(float (&x)[4], const __nv_bfloat16* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const float2 low = unpack(bits.x), high = unpack(bits.y);
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

/// Decays of two tokens (group and group + 8) and four channels, by sums over the groups of tokens
/// around them.
struct Sums {
  float prefix[2][4];  // from the group's start to the token (before it, if exclusive)
  float suffix[2][4];  // after the token to the group's end
  float total[2][4];   // of the group

  /// The group grows from `size` to 2 size tokens; size 1, 2 or 4.
  __device__ void grow(int size, bool upper) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float other = __shfl_xor_sync(~0u, total[i][c], 4 * size);
        if (upper)
          prefix[i][c] += other;
        else
          suffix[i][c] += other;
        total[i][c] += other;
      }
  }
};

/// Scores of the upper half of each group of 2 size tokens with its lower half, both decayed to the
/// middle.
__device__ inline void score_halves(float (&scores)[4],
                                    const Sums& sums,
                                    const float (&q)[2][4],
                                    const float (&k)[2][4],
                                    bool upper) {
  uint32_t a[2][2], b[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float x[4];
#pragma unroll
    for (int c = 0; c < 4; ++c)
      x[c] = (upper ? q[i][c] : k[i][c]) * exp2_fast(upper ? sums.prefix[i][c] : sums.suffix[i][c]);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint32_t bits = pack(x[2 * c], x[2 * c + 1]);
      a[i][c] = upper ? bits : 0;
      b[i][c] = upper ? 0 : bits;
    }
  }
  mma(scores, {a[0][0], 0, a[0][1], 0}, b[0][0], b[0][1]);
  mma(scores, {0, a[1][0], 0, a[1][1]}, b[1][0], b[1][1]);
}

}  // namespace stuffed::kernels::scan
