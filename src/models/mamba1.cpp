// Mamba-1 (arXiv:2312.00752) from the original and the Hugging Face layout, and Falcon-Mamba
// (arXiv:2410.05355), which normalises dt, B and C. A head is a channel: K = 16 state rows, V = 1.
// Its decay depends on time, channel and row, so the scan takes dt and A, never their product.
#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "mamba_layout.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"

namespace stuffed {

namespace {

struct Mamba1Config : RmsTrunkConfig {
  int64_t d_inner, state_width, rank;
  bool projection_bias = false, conv_bias = true;
  std::optional<double> factor_eps = {};  // Falcon-Mamba: of the norms of dt, B and C
  std::vector<std::string> warnings = {};
  MambaBeginning beginning = {.dt_floor = 1e-4};
  double dt_scale = 1;  // of the new matrix that dt comes from
};

struct Mamba1Layer {
  Tensor norm;             // [D]
  ops::Linear in_proj;     // rows x, z
  Tensor conv, conv_bias;  // [C,1,W]; [C]
  ops::Linear x_proj;      // rows dt, B, C
  ops::Linear dt_proj;     // [C,R]
  Tensor dt_bias;          // [C] f32: added after the product, not in the model's type
  Tensor a_log, d;         // [C,K]; [C]
  Tensor rate;             // [C,K], derived for inference: what a step decays by, nats
  ops::Linear out_proj;
};

class Mamba1 : public RmsTrunk {
 public:
  Mamba1(const Mamba1Config& mixer, int64_t vocab)
      : RmsTrunk(mixer,
                 kMambaNames,
                 {.heads = mixer.d_inner, .key_width = mixer.state_width, .value_width = 1},
                 mixer.d_inner,
                 vocab),
        m_(mixer),
        layers_(static_cast<size_t>(mixer.layers)) {
    config_.warnings = m_.warnings;
  }

  void derive() override {
    RmsTrunk::derive();
    for (Mamba1Layer& layer : layers_)
      if (!is_trained_)
        layer.rate = -layer.a_log.exp();
    if (m_.factor_eps)
      ones_ = at::ones({std::max(m_.rank, m_.state_width)}, at::TensorOptions().device(device_));
  }

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override;

 protected:
  void visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) override;

  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass&) const override {
    const Mamba1Layer& layer = layers_[static_cast<size_t>(where.layer)];
    return x + mixer(where, normalise(x, layer.norm), layer, state, rule);
  }

 private:
  Tensor mixer(Where where,
               const Tensor& u,
               const Mamba1Layer& layer,
               LayerState& state,
               const Recurrence& rule) const;
  Tensor factor(const Tensor& factors, int64_t begin, int64_t width) const;

  Mamba1Config m_;
  Tensor ones_;  // the weight of Falcon-Mamba's norms, which have none
  std::vector<Mamba1Layer> layers_;
};

void Mamba1::visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) {
  Mamba1Layer& layer = layers_[i];
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

/// [B,T,width]: dt before its projection, B or C.
Tensor Mamba1::factor(const Tensor& factors, int64_t begin, int64_t width) const {
  const Tensor part = factors.narrow(-1, begin, width);
  return m_.factor_eps ? ops::rms_norm(part, ones_.narrow(0, 0, width), *m_.factor_eps, dtype_)
                       : part;
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
      ops::softplus(ops::linear(factor(factors, 0, m_.rank), layer.dt_proj), layer.dt_bias);
  const auto to_heads = [&](int64_t begin) {
    return factor(factors, begin, m_.state_width).unsqueeze(2).expand({-1, -1, m_.d_inner, -1});
  };
  const Tensor rate = layer.rate.defined() ? layer.rate : -layer.a_log.exp();
  const ScanInputs in = {.q = to_heads(m_.rank + m_.state_width),
                         .k = to_heads(m_.rank),
                         .v = x.unsqueeze(-1),  // [B,T,C,1]
                         .v_scale = dt,
                         .factored_decay = FactoredDecay{.step = dt, .rate = rate, .offset = 0}};
  const Tensor y = rule.advance(where, in, state).squeeze(-1);  // [B,T,C]
  const ops::Skip skip = {.x = x, .weight = layer.d};
  return ops::linear(ops::gated_rms_norm(y, z, /*weight=*/{}, 1, 0, false, skip), layer.out_proj);
}

/// As mamba_ssm begins: A is -1 to -K in every channel, dt log-uniform, D = 1.
void Mamba1::initialise_gates(uint64_t seed) {
  const at::NoGradGuard no_grad;
  const MambaBeginning& begin = m_.beginning;
  embedding_ = embedding_ * (begin.embedding_deviation / kMadeDeviation);
  const Tensor rates = at::arange(1, m_.state_width + 1, at::TensorOptions(at::kDouble));
  for (size_t i = 0; i < layers_.size(); ++i) {
    Mamba1Layer& layer = layers_[i];
    layer.a_log = rates.log().to(device_, at::kFloat).expand({m_.d_inner, -1}).contiguous();
    layer.dt_bias =
        new_step_bias(seed, fmt::format("mamba1 steps of layer {}", i), m_.d_inner, begin)
            .to(device_);
    layer.d = at::ones_like(layer.d);
    layer.dt_proj.weight = layer.dt_proj.weight * m_.dt_scale;
    if (begin.scales_by_depth)
      layer.out_proj.weight = layer.out_proj.weight / std::sqrt(static_cast<double>(m_.layers));
  }
}

/// In Hugging Face's layout.
io::json Mamba1::save_config() const {
  check(m_.d_inner % m_.d_model == 0, Error::Kind::Unsupported,
        "an inner width of {} for a width of {}: Hugging Face's layout holds whole multiples",
        m_.d_inner, m_.d_model);
  const bool is_falcon = m_.factor_eps.has_value();
  io::json config = {{"architectures", {is_falcon ? "FalconMambaForCausalLM" : "MambaForCausalLM"}},
                     {"model_type", is_falcon ? "falcon_mamba" : "mamba"},
                     {"hidden_size", m_.d_model},
                     {"num_hidden_layers", m_.layers},
                     {"state_size", m_.state_width},
                     {"conv_kernel", m_.conv_width},
                     {"expand", m_.d_inner / m_.d_model},
                     {"intermediate_size", m_.d_inner},
                     {"time_step_rank", m_.rank},
                     {"vocab_size", config_.padded_vocab},
                     {"layer_norm_epsilon", m_.eps},
                     {"use_bias", m_.projection_bias},
                     {"use_conv_bias", m_.conv_bias},
                     {"residual_in_fp32", m_.residual_in_f32},
                     {"tie_word_embeddings", m_.tied},
                     {"hidden_act", "silu"},
                     {"pad_token_id", nullptr},
                     {"bos_token_id", nullptr},
                     {"eos_token_id", nullptr},
                     {"dtype", "float32"}};
  if (is_falcon)
    config["mixer_rms_eps"] = *m_.factor_eps;
  return config;
}

// ---- from a checkpoint ----

const ConfigTable kHf = {
    .kind = "hf",
    .model_types = {"mamba", "falcon_mamba"},
    .read = {"hidden_size", "d_model", "intermediate_size", "d_inner", "state_size", "conv_kernel",
             "n_layer", "num_hidden_layers", "vocab_size", "mixer_rms_eps", "use_bias",
             "use_conv_bias", "residual_in_fp32", "tie_word_embeddings", "tie_embeddings"},
    .fixed = {{"hidden_act", {"silu", "swish"}},
              {"rms_norm", {true}, "a LayerNorm"},
              {"time_step_limit", {}, "Mamba-1 has no limit of its steps"},
              {"dt_limit", {}, "Mamba-1 has no limit of its steps"},
              // Left by conversions from the original; Hugging Face's keys say all that is in it.
              {"ssm_cfg", {io::json::object(), io::json::object({{"layer", "Mamba1"}})}},
              {"attn_layer_idx", {io::json::array()}, "attention layers are not supported"}},
    // Falcon-Mamba's expand is not its width's; the tensors say it, and the rank.
    .harmless = {"time_step_rank", "expand", "time_step_min", "time_step_max", "time_step_floor",
                 "time_step_scale", "time_step_init_scheme", "rescale_prenorm_residual",
                 "fused_add_norm", "pad_vocab_size_multiple", "use_mambapy", "use_falcon_mambapy",
                 "use_associative_scan", "attn_cfg", "d_intermediate"}};

const ConfigTable kOriginal = {
    .kind = "original",
    .model_types = {"mamba"},
    .read = {"d_model", "n_layer", "vocab_size", "residual_in_fp32", "tie_embeddings",
             "ssm_cfg.d_state", "ssm_cfg.d_conv", "ssm_cfg.expand", "ssm_cfg.bias",
             "ssm_cfg.conv_bias"},
    .fixed = {{"rms_norm", {true}, "a LayerNorm"},
              {"d_intermediate", {0}, "an MLP after the mixer is not supported in Mamba-1"},
              {"attn_layer_idx", {io::json::array()}, "attention layers are not supported"},
              {"ssm_cfg.layer", {"Mamba1"}, "a layer of other tensors"}},
    .harmless = {"fused_add_norm", "pad_vocab_size_multiple", "attn_cfg", "initializer_cfg",
                 "ssm_cfg.dt_rank", "ssm_cfg.dt_min", "ssm_cfg.dt_max", "ssm_cfg.dt_init",
                 "ssm_cfg.dt_scale", "ssm_cfg.dt_init_floor", "ssm_cfg.use_fast_path",
                 "ssm_cfg.layer_idx", "ssm_cfg.device", "ssm_cfg.dtype"}};

const ConfigTable& config_table(const Checkpoint&, const Recognition& recognition) {
  return recognition.layout == "hf" ? kHf : kOriginal;
}

/// No tensor shows it: the config's model_type does, or a key that is Falcon-Mamba's alone.
bool is_falcon(const Checkpoint& checkpoint) {
  const auto type = ConfigValues(checkpoint).text("model_type");
  return type ? *type == "falcon_mamba" : config_has_any(checkpoint, {"mixer_rms_eps"});
}

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  if (count_mamba_layers(checkpoint) == 0)
    return std::nullopt;
  const std::string first = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  const auto& entries = checkpoint.weights.entries();
  if (!entries.contains(first + "dt_proj.weight") || entries.at(first + "A_log").shape.size() != 2)
    return std::nullopt;
  return Recognition{
      .layout = mamba_layout(checkpoint),
      .why = fmt::format(
          "'{}dt_proj.weight' and a 2-D 'A_log' say Mamba-1; '{}'{} says whose{}", first,
          mamba_embedding_name(checkpoint), checkpoint.config.is_object() ? " or the config" : "",
          is_falcon(checkpoint) ? "; the config says Falcon-Mamba, which normalises dt, B and C"
                                : "")};
}

/// A published conversion of the 790m has a wrong num_hidden_layers beside a right n_layer.
void read_layers(const Checkpoint& checkpoint, Mamba1Config& m) {
  const ConfigValues config(checkpoint);
  const auto layers = config.integer("num_hidden_layers");
  if (!config.find("n_layer"))
    config.agree("num_hidden_layers", m.layers);
  else if (layers && *layers != m.layers)
    m.warnings.push_back(fmt::format(
        "{}: num_hidden_layers is {}, but n_layer and the tensors say {}, which are computed",
        checkpoint.config_path.string(), *layers, m.layers));
}

void read_options(const Checkpoint& checkpoint, const std::string& layout, Mamba1Config& m) {
  const ConfigValues config(checkpoint);
  const bool hf = layout == "hf", falcon = is_falcon(checkpoint);
  m.residual_in_f32 = config.flag("residual_in_fp32").value_or(true);
  if (hf)
    m.eps = config.eps("layer_norm_epsilon").value_or(1e-5);
  config.agree_eps(hf ? "layer_norm_epsilon" : "a fixed one", m.eps);
  if (falcon)
    m.factor_eps = config.eps("mixer_rms_eps").value_or(1e-6);
  config.check(falcon || !config.find("mixer_rms_eps"),
               "mixer_rms_eps is Falcon-Mamba's, but model_type is not falcon_mamba");
  config.agree("d_model", m.d_model);
  config.agree("hidden_size", m.d_model);
  config.agree("intermediate_size", m.d_inner);
  config.agree("d_inner", m.d_inner);
  config.agree("state_size", m.state_width);
  config.agree("conv_kernel", m.conv_width);
  config.agree("n_layer", m.layers);
  if (hf)
    return read_layers(checkpoint, m);
  const ConfigValues ssm(checkpoint, "ssm_cfg");
  ssm.agree("d_state", m.state_width);
  ssm.agree("d_conv", m.conv_width);
  const auto expand = ssm.number("expand");
  ssm.check(!expand || *expand * static_cast<double>(m.d_model) == static_cast<double>(m.d_inner),
            "{} is {}, but the tensors say {} channels for a width of {}", ssm.named("expand"),
            expand.value_or(0), m.d_inner, m.d_model);
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
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
  check_mamba_biases(checkpoint, recognition.layout);
  m.projection_bias = weights.has(mixer + "in_proj.bias");
  m.conv_bias = weights.has(mixer + "conv1d.bias");
  m.tied = mamba_head_is_tied(checkpoint);
  read_options(checkpoint, recognition.layout, m);
  return std::make_unique<Mamba1>(m, true_vocab(checkpoint, m.padded_vocab));
}

// ---- a new one ----

constexpr NewKey kNewKeys[] = {{"hidden_size"},
                               {"num_hidden_layers"},
                               {"state_size", "16"},
                               {"conv_kernel", "4"},
                               {"expand", "2"},
                               {"time_step_rank", "hidden_size / 16, rounded up"},
                               {"vocab_size", "the tokenizer's"},
                               {"layer_norm_epsilon", "1e-5"},
                               {"use_bias", "false"},
                               {"use_conv_bias", "true"},
                               {"residual_in_fp32", "true"},
                               {"tie_word_embeddings", "true"},
                               {"time_step_min", "1e-3"},
                               {"time_step_max", "0.1"},
                               {"time_step_floor", "1e-4"},
                               {"time_step_scale", "1"},
                               {"initializer_range", "0.02"},
                               {"rescale_prenorm_residual", "true"}};

const ConfigTable kNew = new_table("hf",
                                   "mamba",
                                   "MambaForCausalLM",
                                   kNewKeys,
                                   {{"hidden_act", {"silu", "swish"}},
                                    {"rms_norm", {true}, "a LayerNorm"},
                                    {"time_step_init_scheme", {"random"}}},
                                   {});

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  check_new_config(values, "mamba1", kNew);
  Mamba1Config m{};
  m.d_model = new_size(values, "hidden_size");
  m.layers = new_size(values, "num_hidden_layers");
  m.state_width = new_size(values, "state_size", 16);
  m.conv_width = new_size(values, "conv_kernel", 4);
  values.check(m.conv_width > 1, "conv_kernel is {}, expected 2 or more", m.conv_width);
  m.d_inner = new_size(values, "expand", 2) * m.d_model;
  m.rank = new_size(values, "time_step_rank", (m.d_model + 15) / 16);
  m.padded_vocab = new_size(values, "vocab_size");
  m.projection_bias = values.flag("use_bias").value_or(false);
  m.conv_bias = values.flag("use_conv_bias").value_or(true);
  m.residual_in_f32 = values.flag("residual_in_fp32").value_or(true);
  m.tied = values.flag("tie_word_embeddings").value_or(true);
  m.eps = values.eps("layer_norm_epsilon").value_or(m.eps);
  values.agree_eps("layer_norm_epsilon", m.eps);
  read_mamba_beginning(values, m.beginning);
  m.dt_scale = values.number("time_step_scale").value_or(1);
  values.check(m.dt_scale > 0 && m.dt_scale < 1e3, "time_step_scale is {}, expected a small factor",
               m.dt_scale);
  return std::make_unique<Mamba1>(m, m.padded_vocab);
}

// ---- as published ----

constexpr ModelSize mamba1_size(std::string_view name, int64_t d_model, int64_t layers) {
  return {.name = name,
          .d_model = d_model,
          .layers = layers,
          .heads = 2 * d_model,
          .vocab_rows = 50280,
          .key_width = 16};
}

constexpr ModelSize kSizes[] = {
    {.name = "tiny", .d_model = 64, .layers = 2, .heads = 128, .vocab_rows = 256, .key_width = 16},
    mamba1_size("130m", 768, 24),
    mamba1_size("370m", 1024, 48),
    mamba1_size("790m", 1536, 48),
    mamba1_size("1.4b", 2048, 48),
    mamba1_size("1.3b", 2048, 48),  // 1.4b by its other name
    mamba1_size("2.8b", 2560, 64)};

Outline outline_of(const ModelSize& size) {
  Outline outline = mamba_outline(size, {size.heads, size.key_width}, size.heads);
  outline.shapes["backbone.layers.0.mixer.dt_proj.weight"] = {size.heads, (size.d_model + 15) / 16};
  return outline;
}

}  // namespace

const Family mamba1_family = {
    .name = "mamba1",
    .recognise = recognise,
    .config_table = config_table,
    .make = make,
    .weight_map = mamba_weight_map,
    .make_new = make_new,
    .new_keys = kNewKeys,
    .terms = {.decay = DecayForm::Factored, .shares_keys = true, .has_v_scale = true},
    .widths = {.heads = 4096, .key_width = 16, .value_width = 1},
    .sizes = kSizes,
    .outline = outline_of};

}  // namespace stuffed
