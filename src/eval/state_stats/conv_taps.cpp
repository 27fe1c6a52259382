#include "conv_taps.h"

#include <ATen/ATen.h>

namespace stuffed::eval {

namespace {

struct Taps : ParameterVisitor {
  std::vector<Tensor> found;  // [C,1,W], equally many of each layer, in order
  void parameter(const std::string&, Tensor& home, std::vector<int64_t>, Role role) override {
    if (role == Role::Conv)
      found.push_back(home);
  }
};

}  // namespace

NamedTensors tap_statistics(const RecurrentLM& model, const std::vector<int64_t>& layers) {
  Taps taps;
  // visit() serves readers and writers alike, so it wants a model it may change; this one reads.
  const_cast<RecurrentLM&>(model).visit(taps);
  if (taps.found.empty())
    return {};
  const size_t per_layer = taps.found.size() / static_cast<size_t>(model.config().layers);
  std::vector<Tensor> rows;
  for (const int64_t layer : layers) {
    const auto first = taps.found.begin() + static_cast<std::ptrdiff_t>(per_layer) * layer;
    rows.push_back(at::cat(std::vector<Tensor>(first, first + std::ptrdiff_t(per_layer))));
  }
  const Tensor all = at::stack(rows).squeeze(2).to(at::kCPU, at::kDouble);  // [L,C,W]
  return {{"conv.mean", all.mean(2)},
          {"conv.variance", at::var(all, at::OptionalIntArrayRef(2), 1)}};
}

}  // namespace stuffed::eval
