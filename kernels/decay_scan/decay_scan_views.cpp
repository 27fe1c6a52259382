#include "kernels/decay_scan/decay_scan_views.h"

#include <ATen/ATen.h>

namespace stuffed::kernels {

namespace {

/// Axes of stride 0 cut to one element.
Tensor distinct(Tensor x) {
  for (int64_t axis = 0; axis < x.dim(); ++axis)
    if (x.size(axis) > 1 && x.stride(axis) == 0)
      x = x.narrow(axis, 0, 1);
  return x;
}

}  // namespace

ScanInputs map_over_time(ScanInputs in, const std::function<Tensor(const Tensor&)>& change) {
  in.q = change(in.q);
  in.k = change(in.k);
  in.v = change(in.v);
  if (in.log_decay.defined())
    in.log_decay = change(in.log_decay);
  if (in.v_scale)
    in.v_scale = change(*in.v_scale);
  if (in.bonus_k)
    in.bonus_k = change(*in.bonus_k);
  if (in.factored_decay)
    in.factored_decay->step = change(in.factored_decay->step);
  if (in.erase)
    in.erase = Erase{change(in.erase->read), change(in.erase->write)};
  return in;
}

ScanInputs tokens_of(const ScanInputs& in, int64_t begin, int64_t end) {
  return map_over_time(in, [&](const Tensor& x) { return x.slice(1, begin, end); });
}

ScanInputs sequences_of(const ScanInputs& in, int64_t begin, int64_t end) {
  return map_over_time(in, [&](const Tensor& x) { return x.slice(0, begin, end); });
}

ScanInputs heads_of(const ScanInputs& in, int64_t begin, int64_t end) {
  ScanInputs out = map_over_time(in, [&](const Tensor& x) { return x.slice(2, begin, end); });
  if (out.bonus)
    out.bonus = out.bonus->slice(0, begin, end);
  if (out.factored_decay)
    out.factored_decay->rate = out.factored_decay->rate.slice(0, begin, end);
  return out;
}

Tensor converted(const Tensor& x, const at::TensorOptions& to) {
  return distinct(x).to(to).expand(x.sizes());
}

ScanInputs converted(const ScanInputs& in, const at::TensorOptions& to) {
  ScanInputs out = map_over_time(in, [&](const Tensor& x) { return converted(x, to); });
  if (out.bonus)
    out.bonus = converted(*out.bonus, to);
  if (out.factored_decay)
    out.factored_decay->rate = converted(out.factored_decay->rate, to);
  return out;
}

int64_t streamed_bytes(const ScanInputs& in) {
  int64_t bytes = static_cast<int64_t>(in.v.nbytes());  // y, of v's shape and type
  map_over_time(in, [&](const Tensor& x) {
    const Tensor once = distinct(x);
    bytes += once.numel() * static_cast<int64_t>(once.element_size());
    return x;
  });
  return bytes;
}

}  // namespace stuffed::kernels
