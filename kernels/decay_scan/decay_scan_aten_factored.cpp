// The recurrence with a decay given by its factors (Mamba-1), whose states have no structure that
// matrix products could use: all states of a short block, by log2(block) elementwise passes.
#include <bit>

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"
#include "kernels/decay_scan/decay_scan_aten_blocks.h"

namespace stuffed::kernels {

namespace {

/// [B,T,H,...] -> [B,Q,H,...] with zeros up to the power of two Q.
Tensor fill(const Tensor& x, int64_t tokens) {
  std::vector<int64_t> padding(2 * (x.dim() - 1), 0);
  padding.back() = tokens - x.size(1);
  return padding.back() == 0 ? x : at::constant_pad_nd(x, padding);
}

/// [B,Q,...] -> the two halves of each pair of runs of `width` tokens, [B,Q/(2 width),width,...].
std::vector<Tensor> halves(const Tensor& x, int64_t width) {
  return x.unflatten(1, {-1, 2, width}).unbind(2);
}

Tensor rejoin(const Tensor& earlier, const Tensor& later) {
  return at::cat({earlier.unsqueeze(2), later.unsqueeze(2)}, 2).flatten(1, 3);
}

}  // namespace

ScanResult factored_block(const ScanInputs& in, const Tensor& state) {
  const at::ScalarType type = state.scalar_type();
  const int64_t T = in.q.size(1), Q = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(T)));
  const Tensor step = in.factored_decay->step.unsqueeze(-1);
  Tensor since = fill(step * in.factored_decay->rate + in.factored_decay->offset, Q)
                     .unsqueeze(-1);  // [B,Q,H,K,1]
  const Tensor scaled = in.v_scale ? in.v.to(type) * in.v_scale->unsqueeze(-1) : in.v.to(type);
  Tensor states = fill(in.k.to(type).unsqueeze(-1) * scaled.unsqueeze(-2),
                       Q);  // [B,Q,H,K,V], each run starting from 0

  for (int64_t width = 1; width < Q; width *= 2) {
    const std::vector<Tensor> s = halves(states, width), g = halves(since, width);
    const Tensor last = s[0].narrow(2, width - 1, 1), total = g[0].narrow(2, width - 1, 1);
    states = rejoin(s[0], s[1] + g[1].exp() * last);
    since = rejoin(g[0], g[1] + total);
  }
  const Tensor own = states.select(1, T - 1);
  states = states + since.exp() * state.unsqueeze(1);

  const Tensor q = in.q.to(type).unsqueeze(-2),
               end = StateDecays(since.narrow(1, T - 1, 1))
                         .advance(0, state, own);  // [B,T,H,1,K], [B,H,K,V]
  if (!in.bonus)
    return {matrix_product(q, states.narrow(1, 0, T)).squeeze(-2), end};
  const Tensor previous = at::cat({state.unsqueeze(1), states.narrow(1, 0, T - 1)}, 1);
  const Tensor bonus =
      (in.q.to(type) * *in.bonus * in.bonus_k.value_or(in.k).to(type)).sum(-1, true);
  return {matrix_product(q, previous).squeeze(-2) + bonus * in.v.to(type), end};
}

}  // namespace stuffed::kernels
