#include "inputs.h"

#include <ATen/ATen.h>

namespace stuffed::recurrence {

ScanInputs slice_tokens(const ScanInputs& in, int64_t begin, int64_t length) {
  const auto slice = [&](const Tensor& x) { return x.narrow(1, begin, length); };
  const auto maybe = [&](const std::optional<Tensor>& x) {
    return x ? std::optional<Tensor>(slice(*x)) : std::nullopt;
  };
  ScanInputs out = in;
  out.q = slice(in.q);
  out.k = slice(in.k);
  out.v = slice(in.v);
  if (in.log_decay.defined())
    out.log_decay = slice(in.log_decay);
  out.v_scale = maybe(in.v_scale);
  out.bonus_k = maybe(in.bonus_k);
  if (in.factored_decay)
    out.factored_decay->step = slice(in.factored_decay->step);
  if (in.erase)
    out.erase = Erase{slice(in.erase->read), slice(in.erase->write)};
  return out;
}

bool shares_heads(const Tensor& x) {
  return x.dim() == 4 && x.size(2) > 1 && x.stride(2) == 0;
}

Tensor map_shared(const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
  return shares_heads(x) ? f(x.narrow(2, 0, 1)).expand(x.sizes()) : f(x);
}

}  // namespace stuffed::recurrence
