// Tensor aliases and the axis letters used in every shape comment.
//
//   B batch · T tokens in this segment · L layers · D model width · H heads
//   K key width per head (state rows; "d_state" in Mamba-2) · V value width per head (state
//   columns; "headdim") · C convolution channels · W convolution width; the vocabulary axis is the
//   word `vocab`.
//
// Layout is token-major [B,T,H,K]; a state is [B,H,K,V], always f32 unless --state-dtype says
// otherwise.
#pragma once
#include <ATen/core/TensorBody.h>

namespace stuffed {

using Tensor = at::Tensor;

}  // namespace stuffed
