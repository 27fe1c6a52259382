// What a product with blocks of weights is, in plain loops: every other form must agree with it.
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/few_rows/few_rows.h"

namespace stuffed::kernels {

namespace {

/// weight[o,i], by the layout that BlockedWeights describes.
double blocked_weight(const BlockedWeights& weights, int64_t o, int64_t i) {
  const int64_t pair = weights.is_bf16 ? 2 : 1;
  const int64_t block = o / kBlockOutputs, n = o % kBlockOutputs;
  const int64_t at =
      block * weights.block_elements() + (i / pair * kBlockOutputs + n) * pair + i % pair;
  if (weights.is_bf16)
    return static_cast<float>(static_cast<const c10::BFloat16*>(weights.data)[at]);
  return static_cast<const float*>(weights.data)[at];
}

}  // namespace

bool few_rows_cpu_takes(const FewRowsInputs& in) {
  return in.blocks.data != nullptr && in.x.is_cpu();
}

Tensor few_rows_cpu(const FewRowsInputs& in) {
  const Plain x(in.x), bias(in.bias);
  const BlockedWeights& weights = in.blocks;
  std::vector<int64_t> shape = in.x.sizes().vec();
  shape.back() = weights.out;
  const Tensor y = at::empty(shape, at::kDouble);
  for (int64_t r = 0; r < in.x.numel() / weights.in; ++r)
    for (int64_t o = 0; o < weights.out; ++o) {
      double sum = bias.get(o, 0);
      for (int64_t i = 0; i < weights.in; ++i)
        sum += x[r * weights.in + i] * blocked_weight(weights, o, i);
      y.mutable_data_ptr<double>()[r * weights.out + o] = sum;
    }
  return y.to(in.x.scalar_type());
}

}  // namespace stuffed::kernels
