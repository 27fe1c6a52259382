#include "rms_trunk.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "stuffed/ops/norms.h"

namespace stuffed {

RmsTrunk::RmsTrunk(const RmsTrunkConfig& config,
                   const RmsTrunkNames& names,
                   const ScanWidths& widths,
                   int64_t conv_channels,
                   int64_t vocab)
    : t_(config), names_(names), conv_channels_(conv_channels) {
  config_.d_model = t_.d_model;
  config_.layers = t_.layers;
  config_.heads = widths.heads;
  config_.key_width = widths.key_width;
  config_.value_width = widths.value_width;
  config_.vocab = head_.vocab = vocab;
  config_.padded_vocab = t_.padded_vocab;
}

void RmsTrunk::visit(ParameterVisitor& v) {
  v.parameter(names_.embedding, embedding_, {t_.padded_vocab, t_.d_model}, Role::Embedding);
  visit_shared(v);
  for (int64_t i = 0; i < t_.layers; ++i)
    visit_layer(v, fmt::format("{}{}.", names_.layers, i), static_cast<size_t>(i));
  v.parameter(names_.final_norm, final_norm_, {t_.d_model}, Role::Norm);
  if (!t_.tied)
    v.matrix("lm_head.weight", head_.linear, {t_.padded_vocab, t_.d_model});
}

void RmsTrunk::derive() {
  if (t_.tied)
    head_.linear.weight = embedding_;
}

Tensor RmsTrunk::embed(const Tensor& tokens) const {
  return at::embedding(embedding_, tokens).to(t_.residual_in_f32 ? at::kFloat : dtype_);
}

Tensor RmsTrunk::normalise(const Tensor& x, const Tensor& weight) const {
  return ops::rms_norm(x, weight, t_.eps, dtype_);
}

LayerState RmsTrunk::initial_layer_state(int64_t batch) const {
  const auto options = at::TensorOptions().device(device_);
  LayerState state;
  state.recurrent = at::zeros({batch, config_.heads, config_.key_width, config_.value_width},
                              options.dtype(at::kFloat));
  if (t_.conv_width > 0)
    state.conv = at::zeros({batch, conv_channels_, t_.conv_width - 1}, options.dtype(dtype_));
  return state;
}

}  // namespace stuffed
