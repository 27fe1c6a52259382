#include "conv_taps.h"

#include <ATen/ATen.h>

namespace stuffed::eval {

NamedTensors tap_statistics(const RecurrentLM& model, const std::vector<int64_t>& layers) {
  const std::vector<Tensor>& taps = model.conv_taps();
  if (taps.empty())
    return {};
  const size_t per_layer = taps.size() / static_cast<size_t>(model.config().layers);
  std::vector<Tensor> rows;
  for (const int64_t layer : layers) {
    const auto first = taps.begin() + static_cast<std::ptrdiff_t>(per_layer) * layer;
    rows.push_back(at::cat(std::vector<Tensor>(first, first + std::ptrdiff_t(per_layer))));
  }
  const Tensor all = at::stack(rows).squeeze(2).to(at::kCPU, at::kDouble);  // [L,C,W]
  return {{"conv.mean", all.mean(2)},
          {"conv.variance", at::var(all, at::OptionalIntArrayRef(2), 1)}};
}

}  // namespace stuffed::eval
