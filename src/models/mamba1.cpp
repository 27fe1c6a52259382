// Mamba-1 (arXiv:2312.00752) from the original and the Hugging Face layout. A head is a channel: K
// = 16 state rows, V = 1. Its decay depends on time, channel and row, so the scan takes dt and A,
// never their product.
#include <ATen/ATen.h>

#include "mamba_layout.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"

namespace stuffed {

namespace {

struct Mamba1Config {
  int64_t d_model, layers, d_inner, state_width, rank, conv_width, padded_vocab;
  bool projection_bias = false, conv_bias = true, tied = true, residual_in_f32 = true;
  double eps = 1e-5;
};

struct Mamba1Layer {
  Tensor norm;             // [D]
  ops::Linear in_proj;     // rows x, z
  Tensor conv, conv_bias;  // [C,1,W]; [C]
  ops::Linear x_proj;      // rows dt, B, C
  ops::Linear dt_proj;     // [C,R]
  Tensor dt_bias;          // [C] f32: added after the product, not in the model's type
  Tensor a_log, d;         // [C,K]; [C]
  Tensor rate;             // [C,K], derived: what a step decays by, nats
  ops::Linear out_proj;
};

class Mamba1 : public RecurrentLM {
 public:
  Mamba1(const Mamba1Config& mixer, int64_t vocab)
      : m_(mixer), layers_(static_cast<size_t>(mixer.layers)) {
    config_.d_model = m_.d_model;
    config_.layers = m_.layers;
    config_.heads = m_.d_inner;
    config_.key_width = m_.state_width;
    config_.value_width = 1;
    config_.vocab = head_.vocab = vocab;
    config_.padded_vocab = m_.padded_vocab;
  }

  void visit(ParameterVisitor& v) override {
    v.parameter("backbone.embeddings.weight", embedding_, {m_.padded_vocab, m_.d_model},
                Role::Embedding);
    for (size_t i = 0; i < layers_.size(); ++i)
      visit_layer(v, fmt::format("backbone.layers.{}.", i), layers_[i]);
    v.parameter("backbone.norm_f.weight", final_norm_, {m_.d_model}, Role::Norm);
    if (!m_.tied)
      v.matrix("lm_head.weight", head_.linear, {m_.padded_vocab, m_.d_model});
  }

  void derive() override {
    if (m_.tied)
      head_.linear.weight = embedding_;
    for (Mamba1Layer& layer : layers_)
      layer.rate = -layer.a_log.exp();
  }

 protected:
  Tensor embed(const Tensor& tokens) const override {
    return at::embedding(embedding_, tokens).to(m_.residual_in_f32 ? at::kFloat : dtype_);
  }

  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass&) const override {
    const Mamba1Layer& layer = layers_[static_cast<size_t>(where.layer)];
    return x + mixer(where, ops::rms_norm(x, layer.norm, m_.eps, dtype_), layer, state, rule);
  }

  Tensor final_norm(const Tensor& x) const override {
    return ops::rms_norm(x, final_norm_, m_.eps, dtype_);
  }

  LayerState initial_layer_state(int64_t batch) const override {
    const auto options = at::TensorOptions().device(device_);
    return {
        .recurrent = at::zeros({batch, m_.d_inner, m_.state_width, 1}, options.dtype(at::kFloat)),
        .conv = at::zeros({batch, m_.d_inner, m_.conv_width - 1}, options.dtype(dtype_)),
        .shift = {},
        .extra = {}};
  }

 private:
  void visit_layer(ParameterVisitor& v, const std::string& prefix, Mamba1Layer& layer);
  Tensor mixer(Where where,
               const Tensor& u,
               const Mamba1Layer& layer,
               LayerState& state,
               const Recurrence& rule) const;

  Mamba1Config m_;
  Tensor embedding_, final_norm_;
  std::vector<Mamba1Layer> layers_;
};

void Mamba1::visit_layer(ParameterVisitor& v, const std::string& prefix, Mamba1Layer& layer) {
  const std::string mixer = prefix + "mixer.";
  v.parameter(prefix + "norm.weight", layer.norm, {m_.d_model}, Role::Norm);
  v.matrix(mixer + "in_proj.weight", layer.in_proj, {2 * m_.d_inner, m_.d_model});
  if (m_.projection_bias)
    v.parameter(mixer + "in_proj.bias", layer.in_proj.bias, {2 * m_.d_inner}, Role::Bias);
  v.parameter(mixer + "conv1d.weight", layer.conv, {m_.d_inner, 1, m_.conv_width}, Role::Conv);
  if (m_.conv_bias)
    v.parameter(mixer + "conv1d.bias", layer.conv_bias, {m_.d_inner}, Role::Bias);
  v.matrix(mixer + "x_proj.weight", layer.x_proj, {m_.rank + 2 * m_.state_width, m_.d_inner});
  v.matrix(mixer + "dt_proj.weight", layer.dt_proj, {m_.d_inner, m_.rank});
  v.parameter(mixer + "dt_proj.bias", layer.dt_bias, {m_.d_inner}, Role::Gate);
  v.parameter(mixer + "A_log", layer.a_log, {m_.d_inner, m_.state_width}, Role::Gate);
  v.parameter(mixer + "D", layer.d, {m_.d_inner}, Role::Gate);
  v.matrix(mixer + "out_proj.weight", layer.out_proj, {m_.d_model, m_.d_inner});
  if (m_.projection_bias)
    v.parameter(mixer + "out_proj.bias", layer.out_proj.bias, {m_.d_model}, Role::Bias);
}

Tensor Mamba1::mixer(Where where,
                     const Tensor& u,
                     const Mamba1Layer& layer,
                     LayerState& state,
                     const Recurrence& rule) const {
  const Tensor projected = ops::linear(u, layer.in_proj);
  const Tensor z = projected.narrow(-1, m_.d_inner, m_.d_inner);
  const ops::ConvResult conv =
      ops::short_conv(projected.narrow(-1, 0, m_.d_inner), layer.conv.squeeze(1), layer.conv_bias,
                      state.conv, /*silu=*/true);
  state.conv = conv.columns;
  const Tensor x = conv.y;                              // [B,T,C]
  const Tensor factors = ops::linear(x, layer.x_proj);  // [B,T,R+2K]
  const Tensor dt =
      ops::softplus(ops::linear(factors.narrow(-1, 0, m_.rank), layer.dt_proj), layer.dt_bias);
  const auto to_heads = [&](int64_t begin) {
    return factors.narrow(-1, begin, m_.state_width).unsqueeze(2).expand({-1, -1, m_.d_inner, -1});
  };
  const ScanInputs in = {
      .q = to_heads(m_.rank + m_.state_width),
      .k = to_heads(m_.rank),
      .v = x.unsqueeze(-1),  // [B,T,C,1]
      .log_decay = {},
      .v_scale = dt,
      .bonus = {},
      .factored_decay = FactoredDecay{.step = dt, .rate = layer.rate, .offset = 0},
      .erase = {},
      .bonus_k = {}};
  const Tensor y = rule.advance(where, in, state).squeeze(-1);  // [B,T,C]
  const ops::Skip skip = {.x = x, .weight = layer.d};
  return ops::linear(ops::gated_rms_norm(y, z, /*weight=*/{}, 1, 0, false, skip), layer.out_proj);
}

// ---- from a checkpoint ----

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  if (count_mamba_layers(checkpoint) == 0)
    return std::nullopt;
  const std::string first = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  const auto& entries = checkpoint.weights.entries();
  if (!entries.contains(first + "dt_proj.weight") || entries.at(first + "A_log").shape.size() != 2)
    return std::nullopt;
  return Recognition{
      .layout = mamba_layout(checkpoint),
      .why = fmt::format("'{}dt_proj.weight' and a 2-D 'A_log' say Mamba-1; '{}' says whose names",
                         first, mamba_embedding_name(checkpoint))};
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition&) {
  const auto& weights = checkpoint.weights;
  const std::string mixer = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  const auto& embedding = shape_of(checkpoint, mamba_embedding_name(checkpoint), 2);
  const auto& a_log = shape_of(checkpoint, mixer + "A_log", 2);
  Mamba1Config m{};
  m.padded_vocab = embedding[0];
  m.d_model = embedding[1];
  m.layers = count_mamba_layers(checkpoint);
  m.d_inner = a_log[0];
  m.state_width = a_log[1];
  m.rank = shape_of(checkpoint, mixer + "dt_proj.weight", 2)[1];
  m.conv_width = shape_of(checkpoint, mixer + "conv1d.weight", 3)[2];
  check(m.d_inner > 0 && m.state_width > 0 && m.rank > 0 && m.conv_width > 1, Error::Kind::Input,
        "{}: A_log [{}, {}], dt rank {} and {} taps fit no Mamba-1", weights.path().string(),
        m.d_inner, m.state_width, m.rank, m.conv_width);
  m.projection_bias = weights.has(mixer + "in_proj.bias");
  m.conv_bias = weights.has(mixer + "conv1d.bias");
  m.tied = mamba_head_is_tied(checkpoint);
  m.residual_in_f32 = config_bool(checkpoint.config, {"residual_in_fp32"}, true);
  m.eps = config_number(checkpoint.config, {"layer_norm_epsilon"}, 1e-5);
  check_config(checkpoint, {"d_model", "hidden_size"}, m.d_model);
  check_config(checkpoint, {"intermediate_size"}, m.d_inner);
  check_config(checkpoint, {"state_size"}, m.state_width);
  check_config(checkpoint, {"conv_kernel"}, m.conv_width);
  check_config(checkpoint, {"n_layer"},
               m.layers);  // not num_hidden_layers: a published 790m conversion has it wrong
  return std::make_unique<Mamba1>(m, true_vocab(checkpoint, m.padded_vocab));
}

}  // namespace

const Family mamba1_family = {.name = "mamba1",
                              .recognise = recognise,
                              .make = make,
                              .weight_map = mamba_weight_map,
                              .make_new = nullptr};

}  // namespace stuffed
