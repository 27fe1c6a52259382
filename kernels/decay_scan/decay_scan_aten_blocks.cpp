#include "kernels/decay_scan/decay_scan_aten_blocks.h"

#include <ATen/ATen.h>

namespace stuffed::kernels {

Runs single_tokens(const Tensor& log_decay, bool reads_before_update) {
  const Tensor own = log_decay.unsqueeze(-2);
  const Tensor none = at::zeros_like(own);
  return {reads_before_update ? none : own, none, own};
}

std::pair<Tensor, Tensor> pairs(const Tensor& runs) {
  const std::vector<Tensor> halves = runs.unflatten(-3, {-1, 2}).unbind(-3);
  return {halves[0], halves[1]};
}

std::pair<Runs, Runs> neighbours(const Runs& runs) {
  const auto [before_1, before_2] = pairs(runs.before);
  const auto [after_1, after_2] = pairs(runs.after);
  const auto [total_1, total_2] = pairs(runs.total);
  return {{before_1, after_1, total_1}, {before_2, after_2, total_2}};
}

Runs join(const Runs& earlier, const Runs& later) {
  return {at::cat({earlier.before, later.before + earlier.total}, -2),
          at::cat({earlier.after + later.total, later.after}, -2), earlier.total + later.total};
}

StateDecays::StateDecays(const Tensor& log_decay) {
  const Tensor is_weak = log_decay > -0.5;
  keep_ = is_weak.to(log_decay.scalar_type()).unbind(1);
  change_ = at::where(is_weak, log_decay.expm1(), log_decay.exp()).unbind(1);
}

Tensor StateDecays::advance(size_t i, const Tensor& state, const Tensor& insert) const {
  return at::addcmul(at::addcmul(insert, state, keep_[i]), state, change_[i]);
}

Tensor chunks(const Tensor& x, int64_t chunk, at::ScalarType type) {
  Tensor tokens = x.dim() == 3 ? x.unsqueeze(-1) : x;
  const int64_t missing = (chunk - tokens.size(1) % chunk) % chunk;
  if (missing > 0)
    tokens = at::constant_pad_nd(tokens, {0, 0, 0, 0, 0, missing});
  return tokens.to(type).unflatten(1, {-1, chunk}).transpose(2, 3);
}

ScanInputs without_tensors(ScanInputs in) {
  visit_tensors(in, [](const ScanField&, Tensor& x) { x = Tensor(); });
  return in;
}

ScanInputs with_tensors(ScanInputs form, const std::vector<Tensor>& tensors) {
  size_t next = 0;
  visit_tensors(form, [&](const ScanField&, Tensor& x) { x = tensors[next++]; });
  return form;
}

}  // namespace stuffed::kernels
