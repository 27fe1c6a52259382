#include "kernels/common/cuda_rows.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

namespace {

/// Whether every row starts at a whole group of channels.
bool has_aligned_rows(const Tensor& x) {
  const bool is_view = x.dim() == 3 && x.stride(-1) == 1;
  if (!is_view && !x.is_contiguous())
    return false;
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  const bool good = x.size(-1) % kLayerChannels == 0 &&
                    address % (kLayerChannels * static_cast<uintptr_t>(x.element_size())) == 0;
  return good &&
         (!is_view || (x.stride(0) % kLayerChannels == 0 && x.stride(1) % kLayerChannels == 0));
}

}  // namespace

bool takes_cuda_rows(std::initializer_list<Tensor> activations) {
  const auto first_type = activations.begin()->scalar_type();
  for (const Tensor& x : activations) {
    if (!x.defined())
      continue;
    const auto type = x.scalar_type();
    if (!runs_kernels(x) || type != first_type || (type != at::kFloat && type != at::kBFloat16) ||
        wants_gradient(x) || x.dim() == 0 || x.numel() == 0 || !has_aligned_rows(x))
      return false;
  }
  return true;
}

bool takes_cuda_parameters(std::initializer_list<Tensor> parameters) {
  for (const Tensor& x : parameters)
    if (x.defined() &&
        (!x.is_cuda() || x.scalar_type() != at::kFloat || !x.is_contiguous() || wants_gradient(x)))
      return false;
  return true;
}

RowsShape rows_shape(const Tensor& x) {
  if (x.dim() == 3)
    return {x.size(0), x.size(1), x.size(2)};
  return {1, x.numel() / std::max<int64_t>(1, x.size(-1)), x.size(-1)};
}

Rows rows_of(const Tensor& x) {
  if (!x.defined())
    return {};
  if (x.dim() == 3)
    return {x.const_data_ptr(), x.stride(0), x.stride(1)};
  return {x.const_data_ptr(), 0, x.size(-1)};
}

const float* floats_of(const Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

}  // namespace stuffed::kernels
