#pragma once
#include <span>
#include <vector>

#include "kernels/shift_mixes/shift_mixes.h"
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

/// RWKV's token shift, carried across segments: x_{t-1} beside x_t, to be mixed several times over.
class TokenShift {
 public:
  /// x [B,T,D]; before [B,D], the row before x_0 (zeros at the start), of x's type on a GPU.
  TokenShift(const Tensor& x, const Tensor& before);

  /// x_t + (x_{t-1} - x_t) (share + shift), in f32, rounded to x's type. share [D] f32: the
  /// previous token's weight; shift [B,T,D] of x's type, or undefined.
  Tensor mix(const Tensor& share, const Tensor& shift = {}) const;

  /// [B,D]: the row to be carried; a copy of its own. x's type.
  Tensor last() const;

 private:
  friend class LowRankMixes;

  Tensor x_, before_;
  Tensor difference_;  // [B,T,D] f32: x_{t-1} - x_t; undefined where mix() makes it on its way
};

/// RWKV-6's mixes, whose shares depend on the token: x.mix(shares[m], low[m] factors[m]). All of
/// them in one pass on a GPU (bf16); elsewhere each when it is asked for.
class LowRankMixes {
 public:
  /// low [B,T,M,R]; shares, M of [D] f32; factors [M,R,D], of x's type like low. M = 5. x must
  /// outlive this.
  LowRankMixes(const TokenShift& x,
               std::span<const Tensor> shares,
               const Tensor& low,
               const Tensor& factors);

  /// [B,T,D], x's type.
  Tensor operator()(size_t m) const;

 private:
  const TokenShift& x_;
  kernels::ShiftMixesInputs in_;
  std::vector<Tensor> made_;  // all of them, or none
};

}  // namespace stuffed::ops
