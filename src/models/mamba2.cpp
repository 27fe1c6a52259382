// Mamba-2 (arXiv:2405.21060) from the original state-spaces layout, Hugging Face's and Codestral's.
// The recurrence is one scalar decay per head; C, B and x come out of a short convolution, dt and the
// gate z around it.
#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "mamba2_config.h"
#include "mamba_layout.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"
#include "stuffed/ops/step_gates.h"

namespace stuffed {

namespace {

struct Mamba2Layer {
  Tensor norm;                  // [D]
  ops::Linear in_proj;          // rows z, x, B, C, dt
  Tensor conv, conv_bias;       // [C,1,W]; [C]
  Tensor dt_bias, a_log, d;     // [H]; d also [H*V]
  Tensor gate_norm;             // [H*V]
  ops::Linear out_proj;         // [D, H*V]
  Tensor mlp_norm;              // [D]
  ops::Linear mlp_in, mlp_out;  // rows value, gate
};

class Mamba2 : public RmsTrunk {
 public:
  explicit Mamba2(const Mamba2Config& mixer, int64_t vocab)
      : RmsTrunk(
            mixer,
            kMambaNames,
            {.heads = mixer.heads, .key_width = mixer.state_width, .value_width = mixer.head_width},
            mixer.conv_channels(),
            vocab),
        m_(mixer),
        layers_(static_cast<size_t>(mixer.layers)) {
    config_.warnings = m_.warnings;
    if (m_.has_norm_choice())
      config_.gated_norm = m_.norm_is_grouped ? "group" : "whole";
  }

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override;
  std::pair<std::string, Tensor> saved(const std::string& name,
                                       const Tensor& tensor) const override;

 protected:
  void visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) override;

  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass&) const override {
    const Mamba2Layer& layer = layers_[static_cast<size_t>(where.layer)];
    Tensor residual =
        x + ops::linear(gated_memory(where, normalise(x, layer.norm), layer, state, rule),
                        layer.out_proj);
    if (m_.d_mlp > 0)
      residual = residual + mlp(normalise(residual, layer.mlp_norm), layer);
    return residual;
  }

 private:
  Tensor gated_memory(Where where,
                      Tensor u,
                      const Mamba2Layer& layer,
                      LayerState& state,
                      const Recurrence& rule) const;
  Tensor mlp(const Tensor& u, const Mamba2Layer& layer) const;

  Mamba2Config m_;
  std::vector<Mamba2Layer> layers_;
};

void Mamba2::visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) {
  Mamba2Layer& layer = layers_[i];
  const std::string mixer = prefix + "mixer.";
  const int64_t inner = m_.d_inner(), channels = m_.conv_channels();
  const int64_t projected = inner + channels + m_.heads;
  v.parameter(prefix + "norm.weight", layer.norm, {m_.d_model}, Role::Norm);
  v.matrix(mixer + "in_proj.weight", layer.in_proj, {projected, m_.d_model});
  if (m_.projection_bias)
    v.parameter(mixer + "in_proj.bias", layer.in_proj.bias, {projected}, Role::Bias);
  v.parameter(mixer + "conv1d.weight", layer.conv, {channels, 1, m_.conv_width}, Role::Conv);
  if (m_.conv_bias)
    v.parameter(mixer + "conv1d.bias", layer.conv_bias, {channels}, Role::Bias);
  v.parameter(mixer + "dt_bias", layer.dt_bias, {m_.heads}, Role::Gate);
  v.parameter(mixer + "A_log", layer.a_log, {m_.heads}, Role::Gate);
  v.parameter(mixer + "D", layer.d, {m_.d_per_channel ? inner : m_.heads}, Role::Gate);
  if (m_.has_norm)
    v.parameter(mixer + "norm.weight", layer.gate_norm, {inner}, Role::Norm);
  v.matrix(mixer + "out_proj.weight", layer.out_proj, {m_.d_model, inner});
  if (m_.projection_bias)
    v.parameter(mixer + "out_proj.bias", layer.out_proj.bias, {m_.d_model}, Role::Bias);
  if (m_.d_mlp > 0) {
    v.parameter(prefix + "norm2.weight", layer.mlp_norm, {m_.d_model}, Role::Norm);
    v.matrix(prefix + "mlp.fc1.weight", layer.mlp_in, {2 * m_.d_mlp, m_.d_model});
    v.matrix(prefix + "mlp.fc2.weight", layer.mlp_out, {m_.d_model, m_.d_mlp});
  }
}

/// u [B,T,D] -> [B,T,H*V], what the output projection takes. The large tensors of a segment are
/// gone when it does, and u once it is projected.
Tensor Mamba2::gated_memory(Where where,
                            Tensor u,
                            const Mamba2Layer& layer,
                            LayerState& state,
                            const Recurrence& rule) const {
  const int64_t inner = m_.d_inner(), bc = m_.groups * m_.state_width;
  const Tensor projected = ops::linear(u, layer.in_proj);
  u.reset();
  const Tensor z = projected.narrow(-1, 0, inner);
  const Tensor dt_raw = projected.narrow(-1, inner + m_.conv_channels(), m_.heads);
  const ops::ConvResult conv =
      ops::short_conv(projected.narrow(-1, inner, m_.conv_channels()), layer.conv.squeeze(1),
                      layer.conv_bias, state.conv, /*silu=*/true);
  state.conv = conv.columns;

  const ops::StepGates gates =
      ops::step_gates(dt_raw, layer.dt_bias, layer.a_log, m_.dt_min, m_.dt_max);
  const Tensor x = conv.y.narrow(-1, 0, inner).unflatten(-1, {m_.heads, m_.head_width});
  // One group's B and C serve heads / groups heads: a stride of 0 for one group, a copy for
  // several.
  const auto to_heads = [&](const Tensor& grouped) {
    const Tensor parts = grouped.unflatten(-1, {m_.groups, 1, m_.state_width});
    const auto per_group = m_.heads / m_.groups;
    return m_.groups == 1 ? parts.select(2, 0).expand({-1, -1, m_.heads, -1})
                          : parts.expand({-1, -1, -1, per_group, -1}).flatten(2, 3);
  };
  const ScanInputs in = {.q = to_heads(conv.y.narrow(-1, inner + bc, bc)),
                         .k = to_heads(conv.y.narrow(-1, inner, bc)),
                         .v = x,
                         .log_decay = gates.log_decay.unsqueeze(-1),  // [B,T,H,1]
                         .v_scale = gates.dt};
  Tensor y = rule.advance(where, in, state).to(dtype_).flatten(-2);  // [B,T,H*V]
  const ops::Skip skip = {.x = conv.y.narrow(-1, 0, inner), .weight = layer.d};
  return ops::gated_rms_norm(std::move(y), z, layer.gate_norm, m_.norm_is_grouped ? m_.groups : 1,
                             m_.eps, m_.norm_before_gate, skip);
}

Tensor Mamba2::mlp(const Tensor& u, const Mamba2Layer& layer) const {
  const auto parts = ops::linear(u, layer.mlp_in).chunk(2, -1);
  return ops::linear(ops::silu_product(parts[1], parts[0]), layer.mlp_out);
}

void Mamba2::initialise_gates(uint64_t seed) {
  // The published initialisation (mamba_ssm): A uniform in [1, 16], dt log-uniform in [1e-3, 0.1],
  // D = 1, and output projections scaled down by the depth.
  at::NoGradGuard no_grad;
  const MambaBeginning& begin = m_.beginning;
  if (begin.embedding_deviation != kMadeDeviation)
    embedding_ = embedding_ * (begin.embedding_deviation / kMadeDeviation);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Rng rng(seed, fmt::format("mamba2 gates of layer {}", i));
    std::vector<float> a_log, dt_bias;
    for (int64_t h = 0; h < m_.heads; ++h) {
      a_log.push_back(static_cast<float>(std::log(1 + 15 * rng.uniform())));
      dt_bias.push_back(draw_step_bias(rng, begin));
    }
    layers_[i].a_log = at::tensor(a_log).to(device_);
    layers_[i].dt_bias = at::tensor(dt_bias).to(device_);
    layers_[i].d = at::ones_like(layers_[i].d);
    if (begin.scales_by_depth)
      layers_[i].out_proj.weight =
          layers_[i].out_proj.weight / std::sqrt(static_cast<double>(m_.layers));
  }
}

io::json Mamba2::save_config() const {
  return saved_mamba2_config(m_);
}

std::pair<std::string, Tensor> Mamba2::saved(const std::string& name, const Tensor& tensor) const {
  const bool is_renamed = m_.is_saved_as_original() && name == kMambaNames.embedding;
  return {is_renamed ? "backbone.embedding.weight" : name, tensor};
}

// ---- from a checkpoint ----

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  if (count_mamba_layers(checkpoint) == 0)
    return std::nullopt;
  const std::string first = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  const auto& entries = checkpoint.weights.entries();
  if (!entries.contains(first + "dt_bias") || entries.at(first + "A_log").shape.size() != 1)
    return std::nullopt;
  return Recognition{
      .layout = mamba_layout(checkpoint),
      .why = fmt::format("'{}dt_bias' and a 1-D 'A_log' say Mamba-2; '{}' says whose naming it is",
                         first, mamba_embedding_name(checkpoint))};
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
  const Mamba2Config m = read_mamba2_config(checkpoint, recognition);
  return std::make_unique<Mamba2>(m, true_vocab(checkpoint, m.padded_vocab));
}

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const Mamba2Config m = new_mamba2_config(config);
  return std::make_unique<Mamba2>(m, m.padded_vocab);
}

// ---- as published ----

constexpr ModelSize mamba2_size(std::string_view name, int64_t d_model, int64_t layers) {
  return {.name = name,
          .d_model = d_model,
          .layers = layers,
          .heads = d_model / 32,
          .vocab_rows = 50288,
          .key_width = 128};
}

constexpr ModelSize kSizes[] = {
    {.name = "tiny", .d_model = 64, .layers = 2, .heads = 4, .vocab_rows = 256, .key_width = 32},
    mamba2_size("130m", 768, 24),
    mamba2_size("370m", 1024, 48),
    mamba2_size("780m", 1536, 48),
    mamba2_size("1.3b", 2048, 48),
    mamba2_size("2.7b", 2560, 64)};

Outline outline_of(const ModelSize& size) {
  const int64_t inner = 2 * size.d_model, channels = inner + 2 * size.key_width;
  Outline outline = mamba_outline(size, {size.heads}, channels);
  const std::string mixer = "backbone.layers.0.mixer.";
  outline.shapes[mixer + "dt_bias"] = {size.heads};
  outline.shapes[mixer + "D"] = {size.heads};
  outline.shapes[mixer + "norm.weight"] = {inner};
  outline.shapes[mixer + "in_proj.weight"] = {inner + channels + size.heads, size.d_model};
  return outline;
}

}  // namespace

const Family mamba2_family = {
    .name = "mamba2",
    .recognise = recognise,
    .config_table = mamba2_config_table,
    .make = make,
    .weight_map = mamba_weight_map,
    .make_new = make_new,
    .new_keys = kNewMamba2Keys,
    .terms = {.decay = DecayForm::PerHead, .shares_keys = true, .has_v_scale = true},
    .widths = {.heads = 64, .key_width = 128, .value_width = 64},
    .sizes = kSizes,
    .outline = outline_of,
    .has_gated_norm_choice = true};

}  // namespace stuffed
