#include "rwkv_beginning.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>

#include <ATen/ATen.h>

#include "new_weights.h"

namespace stuffed {

namespace {

Tensor channels(int64_t width) {
  return at::arange(width, at::TensorOptions(at::kDouble));
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> ends) {
  return std::ranges::any_of(ends, [&](std::string_view end) { return name.ends_with(end); });
}

/// The number in "blocks.N.".
int64_t layer_of(const std::string& name) {
  return std::stoll(name.substr(name.find('.') + 1));
}

}  // namespace

RwkvDepth::RwkvDepth(int64_t layer, int64_t layers)
    : rising(static_cast<double>(layer) / static_cast<double>(std::max<int64_t>(1, layers - 1))),
      falling(1 - static_cast<double>(layer) / static_cast<double>(layers)) {}

Tensor rwkv_ramp(int64_t width, double power) {
  return (channels(width) / static_cast<double>(width)).pow(power).to(at::kFloat);
}

Tensor rwkv_line(int64_t width) {
  return channels(width) / static_cast<double>(std::max<int64_t>(1, width - 1));
}

Tensor rwkv_new_decay(int64_t width, RwkvDepth depth) {
  return (-6 + 5 * rwkv_line(width).pow(0.7 + 1.3 * depth.rising)).to(at::kFloat);
}

Tensor rwkv_new_bonus(int64_t width, RwkvDepth depth) {
  const Tensor zigzag = (channels(width) + 1).remainder(3) - 1;  // 0, 1, -1, 0, ...
  return (depth.rising * (1 - rwkv_line(width)) + 0.1 * zigzag).to(at::kFloat);
}

Tensor rwkv_new_weight(uint64_t seed,
                       const std::string& name,
                       const std::vector<int64_t>& shape,
                       int64_t layers) {
  if (name == "emb.weight")
    return drawn_uniform(seed, name, shape, 1e-4);
  if (name == "head.weight") {
    const double tallness = static_cast<double>(shape[0]) / static_cast<double>(shape[1]);
    return drawn_orthogonal(seed, name, shape, 0.5 * std::sqrt(std::max(1.0, tallness)));
  }
  if (name.ends_with("att.ln_x.weight")) {
    const double part = static_cast<double>(1 + layer_of(name)) / static_cast<double>(layers);
    return at::full(shape, std::pow(part, 0.7), at::TensorOptions(at::kFloat));
  }
  if (ends_with_any(name, {"att.output.weight", "ffn.value.weight", "ffn.receptance.weight"}))
    return at::zeros(shape, at::TensorOptions(at::kFloat));
  return {};
}

Tensor rwkv_new_matrix(uint64_t seed,
                       const std::string& name,
                       const std::vector<int64_t>& shape,
                       Role role,
                       int64_t layers) {
  const Tensor shared = rwkv_new_weight(seed, name, shape, layers);
  if (shared.defined() || role != Role::Matrix)
    return shared;
  if (name.ends_with("_w1"))
    return at::zeros(shape, at::TensorOptions(at::kFloat));
  if (name.ends_with("_w2"))
    return drawn_uniform(seed, name, shape, 0.01);
  const bool is_small = ends_with_any(name, {"att.key.weight", "att.gate.weight"});
  return drawn_orthogonal(seed, name, shape, is_small ? 0.1 : 1);
}

}  // namespace stuffed
