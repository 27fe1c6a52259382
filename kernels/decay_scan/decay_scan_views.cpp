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

bool has_time(const ScanField& field) {
  return field.axes.find('t') != field.axes.npos;
}

/// Elements [begin, end) of the axis with this letter, of every tensor that has it.
ScanInputs slice(ScanInputs in, char axis, int64_t begin, int64_t end) {
  visit_tensors(in, [&](const ScanField& field, Tensor& x) {
    if (const size_t i = field.axes.find(axis); i != field.axes.npos)
      x = x.slice(static_cast<int64_t>(i), begin, end);
  });
  return in;
}

}  // namespace

ScanInputs map_over_time(ScanInputs in, const std::function<Tensor(const Tensor&)>& change) {
  visit_tensors(in, [&](const ScanField& field, Tensor& x) {
    if (has_time(field))
      x = change(x);
  });
  return in;
}

ScanInputs tokens_of(const ScanInputs& in, int64_t begin, int64_t end) {
  return slice(in, 't', begin, end);
}

ScanInputs sequences_of(const ScanInputs& in, int64_t begin, int64_t end) {
  return slice(in, 'b', begin, end);
}

ScanInputs heads_of(const ScanInputs& in, int64_t begin, int64_t end) {
  return slice(in, 'h', begin, end);
}

ScanInputs repeat_token(const ScanInputs& in, int64_t count) {
  return map_over_time(in, [&](const Tensor& x) {
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes[1] = count;
    return x.narrow(1, 0, 1).expand(sizes);
  });
}

Tensor converted(const Tensor& x, const at::TensorOptions& to) {
  return distinct(x).to(to).expand(x.sizes());
}

ScanInputs converted(ScanInputs in, const at::TensorOptions& to) {
  visit_tensors(in, [&](const ScanField&, Tensor& x) { x = converted(x, to); });
  return in;
}

int64_t streamed_bytes(const ScanInputs& in) {
  int64_t bytes = static_cast<int64_t>(in.v.nbytes());  // y, of v's shape and type
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    const Tensor once = distinct(x);
    if (has_time(field))
      bytes += once.numel() * static_cast<int64_t>(once.element_size());
  });
  return bytes;
}

}  // namespace stuffed::kernels
