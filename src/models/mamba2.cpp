// Mamba-2 (arXiv:2405.21060) from the original state-spaces layout, Hugging Face's and Codestral's.
// The recurrence is one scalar decay a head; C, B and x come out of a short convolution, dt and the
// gate z around it.
#include <cmath>
#include <utility>

#include <ATen/ATen.h>

#include "mamba_layout.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"
#include "stuffed/ops/step_gates.h"

namespace stuffed {

namespace {

struct Mamba2Config {
  int64_t d_model, layers, heads, head_width, groups, state_width, conv_width, padded_vocab;
  int64_t d_mlp =
      0;  // hidden width of the gated MLP after the mixer (d_intermediate, padded to 128); 0: none
  bool projection_bias = false, conv_bias = true, has_norm = true, norm_before_gate = false;
  bool d_per_channel = false, tied = true, residual_in_f32 = true;
  double eps = 1e-5;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();

  int64_t d_inner() const { return heads * head_width; }
  int64_t conv_channels() const { return d_inner() + 2 * groups * state_width; }
};

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

class Mamba2 : public RecurrentLM {
 public:
  explicit Mamba2(const Mamba2Config& mixer, int64_t vocab)
      : m_(mixer), layers_(static_cast<size_t>(mixer.layers)) {
    config_.d_model = m_.d_model;
    config_.layers = m_.layers;
    config_.heads = m_.heads;
    config_.key_width = m_.state_width;
    config_.value_width = m_.head_width;
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
  }

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override;

 protected:
  Tensor embed(const Tensor& tokens) const override {
    return at::embedding(embedding_, tokens).to(m_.residual_in_f32 ? at::kFloat : dtype_);
  }

  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass&) const override {
    const Mamba2Layer& layer = layers_[static_cast<size_t>(where.layer)];
    Tensor residual =
        x + ops::linear(gated_memory(where, ops::rms_norm(x, layer.norm, m_.eps, dtype_), layer,
                                     state, rule),
                        layer.out_proj);
    if (m_.d_mlp > 0)
      residual = residual + mlp(ops::rms_norm(residual, layer.mlp_norm, m_.eps, dtype_), layer);
    return residual;
  }

  Tensor final_norm(const Tensor& x) const override {
    return ops::rms_norm(x, final_norm_, m_.eps, dtype_);
  }

  LayerState initial_layer_state(int64_t batch) const override {
    const auto options = at::TensorOptions().device(device_);
    return {
        .recurrent =
            at::zeros({batch, m_.heads, m_.state_width, m_.head_width}, options.dtype(at::kFloat)),
        .conv = at::zeros({batch, m_.conv_channels(), m_.conv_width - 1}, options.dtype(dtype_)),
        .shift = {},
        .extra = {}};
  }

 private:
  void visit_layer(ParameterVisitor& v, const std::string& prefix, Mamba2Layer& layer);
  Tensor gated_memory(Where where,
                      Tensor u,
                      const Mamba2Layer& layer,
                      LayerState& state,
                      const Recurrence& rule) const;
  Tensor mlp(const Tensor& u, const Mamba2Layer& layer) const;

  Mamba2Config m_;
  Tensor embedding_, final_norm_;
  std::vector<Mamba2Layer> layers_;
};

void Mamba2::visit_layer(ParameterVisitor& v, const std::string& prefix, Mamba2Layer& layer) {
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
                         .v_scale = gates.dt,
                         .bonus = {},
                         .factored_decay = {},
                         .erase = {},
                         .bonus_k = {}};
  Tensor y = rule.advance(where, in, state).to(dtype_).flatten(-2);  // [B,T,H*V]
  const ops::Skip skip = {.x = conv.y.narrow(-1, 0, inner), .weight = layer.d};
  return ops::gated_rms_norm(std::move(y), z, layer.gate_norm, m_.groups, m_.eps,
                             m_.norm_before_gate, skip);
}

Tensor Mamba2::mlp(const Tensor& u, const Mamba2Layer& layer) const {
  const auto parts = ops::linear(u, layer.mlp_in).chunk(2, -1);
  return ops::linear(ops::silu_product(parts[1], parts[0]), layer.mlp_out);
}

void Mamba2::initialise_gates(uint64_t seed) {
  // The published initialisation (mamba_ssm): A uniform in [1, 16], dt log-uniform in [1e-3, 0.1],
  // D = 1, and output projections scaled down by the depth.
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Rng rng(seed, fmt::format("mamba2 gates of layer {}", i));
    std::vector<float> a_log, dt_bias;
    for (int64_t h = 0; h < m_.heads; ++h) {
      a_log.push_back(static_cast<float>(std::log(1 + 15 * rng.uniform())));
      const double dt = std::exp(std::log(1e-3) + rng.uniform() * std::log(0.1 / 1e-3));
      dt_bias.push_back(
          static_cast<float>(dt + std::log(-std::expm1(-dt))));  // softplus of it is dt
    }
    layers_[i].a_log = at::tensor(a_log).to(device_);
    layers_[i].dt_bias = at::tensor(dt_bias).to(device_);
    layers_[i].d = at::ones_like(layers_[i].d);
    layers_[i].out_proj.weight =
        layers_[i].out_proj.weight / std::sqrt(static_cast<double>(m_.layers));
  }
}

io::json Mamba2::save_config() const {
  check(m_.d_mlp == 0 && !m_.d_per_channel && m_.has_norm && m_.d_inner() % m_.d_model == 0,
        Error::Kind::Unsupported,
        "this Mamba-2 has parts (an MLP, D per channel, no norm, a fractional expansion) that the "
        "Hugging Face layout cannot hold");
  return {{"architectures", {"Mamba2ForCausalLM"}},
          {"model_type", "mamba2"},
          {"hidden_size", m_.d_model},
          {"num_hidden_layers", m_.layers},
          {"num_heads", m_.heads},
          {"head_dim", m_.head_width},
          {"state_size", m_.state_width},
          {"n_groups", m_.groups},
          {"conv_kernel", m_.conv_width},
          {"expand", m_.d_inner() / m_.d_model},
          {"vocab_size", config_.vocab},
          {"layer_norm_epsilon", m_.eps},
          {"use_bias", m_.projection_bias},
          {"use_conv_bias", m_.conv_bias},
          {"rms_norm", true},
          {"norm_before_gate", m_.norm_before_gate},
          {"residual_in_fp32", m_.residual_in_f32},
          {"tie_word_embeddings", m_.tied},
          {"hidden_act", "silu"},
          {"chunk_size", 64},
          {"pad_token_id", nullptr},
          {"bos_token_id", nullptr},
          {"eos_token_id", nullptr},
          {"dtype", "float32"}};
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
      .why = fmt::format("'{}dt_bias' and a 1-D 'A_log' say Mamba-2; '{}' says whose names", first,
                         mamba_embedding_name(checkpoint))};
}

/// True for conversions older than the merged code, whose config has fields such as
/// mamba2_head_dim.
bool has_renamed_fields(const Checkpoint& checkpoint) {
  return checkpoint.config.contains("mamba2_head_dim") ||
         checkpoint.config.contains("mamba2_conv_kernel");
}

/// What no tensor shows: options of the original's ssm_cfg, or of Hugging Face's flat config.
void read_options(const Checkpoint& checkpoint, const Recognition& recognition, Mamba2Config& m) {
  const io::json& config = checkpoint.config;
  const bool hf = recognition.layout == "hf";
  const io::json ssm = ssm_options(checkpoint);
  check(
      !config.is_object() || !config.contains("attn_layer_idx") || config["attn_layer_idx"].empty(),
      Error::Kind::Input, "{}: attn_layer_idx names attention layers, which are not supported",
      checkpoint.config_path.string());
  m.residual_in_f32 = config_bool(config, {"residual_in_fp32"}, true);
  m.eps = hf ? config_number(config, {"layer_norm_epsilon"}, 1e-5) : 1e-5;
  // Hugging Face's code gates before the norm whatever its config says.
  m.norm_before_gate = hf ? false : config_bool(ssm, {"norm_before_gate"}, false);
  const io::json& source = hf ? config : ssm;
  const char* key = hf ? "time_step_limit" : "dt_limit";
  if (const auto limit = source.is_object() ? source.find(key) : source.end();
      limit != source.end() && limit->is_array()) {
    check(limit->size() == 2 && (*limit)[0].is_number() && (*limit)[1].is_number(),
          Error::Kind::Input, "{}: {} is {}, expected two numbers", checkpoint.config_path.string(),
          key, limit->dump());
    m.dt_min = (*limit)[0].get<double>();
    m.dt_max = (*limit)[1].get<double>();
  }
}

Mamba2Config read_mamba2_config(const Checkpoint& checkpoint, const Recognition& recognition) {
  const auto& weights = checkpoint.weights;
  const std::string prefix = mamba_prefix(checkpoint), layer = prefix + "backbone.layers.0.",
                    mixer = layer + "mixer.";
  Mamba2Config m{};
  const auto& embedding = shape_of(checkpoint, mamba_embedding_name(checkpoint), 2);
  m.padded_vocab = embedding[0];
  m.d_model = embedding[1];
  m.layers = count_layers(weights, prefix + "backbone.layers.");
  m.heads = shape_of(checkpoint, mixer + "A_log", 1)[0];
  const int64_t inner = shape_of(checkpoint, mixer + "out_proj.weight", 2)[1];
  const auto& conv = shape_of(checkpoint, mixer + "conv1d.weight", 3);
  m.conv_width = conv[2];
  const int64_t two_gn = conv[0] - inner;
  const std::string path = weights.path().string();
  check(m.heads > 0 && inner > 0 && inner % m.heads == 0 && two_gn > 0 && two_gn % 2 == 0 &&
            m.conv_width > 1,
        Error::Kind::Input,
        "{}: {} heads, inner width {}, {} convolution channels of {} taps fit no Mamba-2", path,
        m.heads, inner, conv[0], m.conv_width);
  m.head_width = inner / m.heads;

  // An older conversion's config has the class's defaults in the fields it renamed: not believed.
  const io::json config = has_renamed_fields(checkpoint) ? io::json() : checkpoint.config;
  const io::json ssm = ssm_options(checkpoint);
  // Groups and state width cannot be told apart by shapes: the config says, or the only two
  // published cases do.
  const int64_t published = m.heads == 128 && m.d_model == 4096 ? 8 : 1;
  const int64_t state_width =
      config_int(config, {"state_size"}).value_or(config_int(ssm, {"d_state"}).value_or(0));
  check(state_width == 0 || (state_width > 0 && (two_gn / 2) % state_width == 0),
        Error::Kind::Input,
        "{}: a state width of {} does not divide the {} B channels of {}; these files do not "
        "belong together",
        checkpoint.config_path.string(), state_width, two_gn / 2, path);
  m.groups = config_int(config, {"n_groups"})
                 .value_or(config_int(ssm, {"ngroups"})
                               .value_or(state_width > 0 ? two_gn / 2 / state_width : published));
  check(m.groups > 0 && (two_gn / 2) % m.groups == 0 && m.heads % m.groups == 0, Error::Kind::Input,
        "{}: {} groups fit neither {} B channels nor {} heads of {}",
        checkpoint.config_path.string(), m.groups, two_gn / 2, m.heads, path);
  m.state_width = two_gn / 2 / m.groups;
  const int64_t projected = shape_of(checkpoint, mixer + "in_proj.weight", 2)[0];
  check(projected == 2 * inner + two_gn + m.heads, Error::Kind::Input,
        "{}: in_proj has {} rows, expected {} (2 x {} + {} + {}); models whose d_ssm is narrower "
        "than the inner width "
        "are not supported",
        path, projected, 2 * inner + two_gn + m.heads, inner, two_gn, m.heads);

  m.projection_bias = weights.has(mixer + "in_proj.bias");
  m.conv_bias = weights.has(mixer + "conv1d.bias");
  m.has_norm = weights.has(mixer + "norm.weight");
  m.d_per_channel = shape_of(checkpoint, mixer + "D", 1)[0] == inner && inner != m.heads;
  if (weights.has(layer + "mlp.fc2.weight"))
    m.d_mlp = shape_of(checkpoint, layer + "mlp.fc2.weight", 2)[1];
  m.tied = mamba_head_is_tied(checkpoint);
  read_options(checkpoint, recognition, m);
  return m;
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
  const Mamba2Config m = read_mamba2_config(checkpoint, recognition);
  check_config(checkpoint, {"d_model", "hidden_size", "dim"}, m.d_model);
  check_config(checkpoint, {"n_layer", "num_hidden_layers", "n_layers"}, m.layers);
  if (recognition.layout == "hf" && !has_renamed_fields(checkpoint)) {
    check_config(checkpoint, {"num_heads"}, m.heads);
    check_config(checkpoint, {"head_dim"}, m.head_width);
    check_config(checkpoint, {"state_size"}, m.state_width);
    check_config(checkpoint, {"conv_kernel"}, m.conv_width);
  }
  const Checkpoint inner{checkpoint.path, checkpoint.weights, ssm_options(checkpoint),
                         checkpoint.config_path};
  check_config(inner, {"d_state"}, m.state_width);
  check_config(inner, {"headdim"}, m.head_width);
  check_config(inner, {"d_conv"}, m.conv_width);
  return std::make_unique<Mamba2>(m, true_vocab(checkpoint, m.padded_vocab));
}

/// From a config.json in Hugging Face's layout; every width must be given.
std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const auto need = [&](const char* key) {
    const auto value = config_int(config, {key});
    check(value && *value > 0, Error::Kind::Usage,
          "a new mamba2 model needs {} (a positive integer)", key);
    return *value;
  };
  Mamba2Config m{};
  m.d_model = need("hidden_size");
  m.layers = need("num_hidden_layers");
  m.head_width = need("head_dim");
  m.state_width = need("state_size");
  m.heads = config_int(config, {"num_heads"}).value_or(2 * m.d_model / m.head_width);
  m.groups = config_int(config, {"n_groups"}).value_or(1);
  m.conv_width = config_int(config, {"conv_kernel"}).value_or(4);
  m.padded_vocab = need("vocab_size");
  check(m.heads > 0 && m.groups > 0 && m.conv_width > 1, Error::Kind::Usage,
        "num_heads ({}) and n_groups ({}) must be positive, conv_kernel ({}) at least 2", m.heads,
        m.groups, m.conv_width);
  check(m.heads % m.groups == 0 && m.d_inner() % m.d_model == 0, Error::Kind::Usage,
        "heads ({}) must be a multiple of groups ({}), and heads x head_dim ({}) one of "
        "hidden_size ({})",
        m.heads, m.groups, m.d_inner(), m.d_model);
  return std::make_unique<Mamba2>(m, m.padded_vocab);
}

}  // namespace

const Family mamba2_family = {.name = "mamba2",
                              .recognise = recognise,
                              .make = make,
                              .weight_map = mamba_weight_map,
                              .make_new = make_new};

}  // namespace stuffed
