// HGRN-2 (arXiv:2404.07904) from flash-linear-attention's layout: a forget gate f with a lower
// bound that grows with depth, and k = 1 - f, so that what is forgotten makes room for what is
// written.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "checkpoint.h"
#include "new_weights.h"
#include "rms_trunk.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"
#include "stuffed/ops/short_conv.h"

namespace stuffed {

namespace {

struct Hgrn2Config : RmsTrunkConfig {
  int64_t heads, expand, mlp_width;
  bool has_lower_bounds = false;
  // The fused norm of flash-linear-attention uses its own default whatever the config's norm_eps
  // says.
  double gate_norm_eps = 1e-5;
  double new_deviation = 0.02;  // of a new model's matrices
};

struct Hgrn2Layer {
  Tensor attn_norm, mlp_norm, gate_norm;       // [D]
  ops::Linear q_proj, f_proj, i_proj, o_proj;  // [D,D]
  Tensor q_conv, f_conv, i_conv;               // [D,1,W]
  ops::Linear gate_proj, up_proj, down_proj;   // [I,D], [I,D], [D,I]
  Tensor lower_bound;                          // [D] f32, derived
};

constexpr RmsTrunkNames kNames = {.embedding = "model.embeddings.weight",
                                  .layers = "model.layers.",
                                  .final_norm = "model.norm.weight"};

class Hgrn2 : public RmsTrunk {
 public:
  Hgrn2(const Hgrn2Config& config, int64_t vocab)
      : RmsTrunk(config,
                 kNames,
                 {.heads = config.heads,
                  .key_width = config.expand,
                  .value_width = config.d_model / config.heads},
                 3 * config.d_model,
                 vocab),
        m_(config),
        layers_(static_cast<size_t>(config.layers)) {}

  void derive() override {
    RmsTrunk::derive();
    if (!m_.has_lower_bounds || is_trained_)
      return;
    const Tensor bounds = cumulated_bounds();
    for (size_t i = 1; i < layers_.size(); ++i)
      layers_[i].lower_bound = bounds.select(0, static_cast<int64_t>(i)).clone();
  }

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override;

 protected:
  void visit_shared(ParameterVisitor& v) override {
    if (m_.has_lower_bounds)
      v.parameter("model.lower_bounds", lower_bounds_, {m_.layers, m_.d_model}, Role::Gate);
  }

  void visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) override;

  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass&) const override {
    const Hgrn2Layer& layer = layers_[static_cast<size_t>(where.layer)];
    const Tensor h = x + attention(where, normalise(x, layer.attn_norm), layer, state, rule);
    const Tensor u = normalise(h, layer.mlp_norm);
    return h + ops::linear(ops::silu_product(ops::linear(u, layer.gate_proj),
                                             ops::linear(u, layer.up_proj)),
                           layer.down_proj);
  }

 private:
  /// [L,D]: a distribution over layers, cumulated. The first layer may forget all, the last must
  /// keep the most.
  Tensor cumulated_bounds() const {
    // Along rows: along columns the number of threads changes bits.
    const Tensor shares = at::softmax(lower_bounds_.t().contiguous(), 1).t();
    return shares.cumsum(0) - shares.select(0, 0);
  }
  /// [D]; undefined: no bound.
  Tensor lower_bound(int layer) const {
    if (is_trained_ && m_.has_lower_bounds && layer > 0)
      return cumulated_bounds().select(0, layer);
    return layers_[static_cast<size_t>(layer)].lower_bound;
  }
  Tensor attention(Where where,
                   const Tensor& u,
                   const Hgrn2Layer& layer,
                   LayerState& state,
                   const Recurrence& rule) const;

  Hgrn2Config m_;
  Tensor lower_bounds_;
  std::vector<Hgrn2Layer> layers_;
};

void Hgrn2::visit_layer(ParameterVisitor& v, const std::string& prefix, size_t i) {
  Hgrn2Layer& layer = layers_[i];
  const int64_t d = m_.d_model;
  v.parameter(prefix + "attn_norm.weight", layer.attn_norm, {d}, Role::Norm);
  v.matrix(prefix + "attn.q_proj.weight", layer.q_proj, {d, d});
  v.matrix(prefix + "attn.f_proj.weight", layer.f_proj, {d, d});
  v.matrix(prefix + "attn.i_proj.weight", layer.i_proj, {d, d});
  if (m_.conv_width > 0) {
    v.parameter(prefix + "attn.q_conv1d.weight", layer.q_conv, {d, 1, m_.conv_width}, Role::Conv);
    v.parameter(prefix + "attn.f_conv1d.weight", layer.f_conv, {d, 1, m_.conv_width}, Role::Conv);
    v.parameter(prefix + "attn.i_conv1d.weight", layer.i_conv, {d, 1, m_.conv_width}, Role::Conv);
  }
  v.parameter(prefix + "attn.g_norm.weight", layer.gate_norm, {d}, Role::Norm);
  v.matrix(prefix + "attn.o_proj.weight", layer.o_proj, {d, d});
  v.parameter(prefix + "mlp_norm.weight", layer.mlp_norm, {d}, Role::Norm);
  v.matrix(prefix + "mlp.gate_proj.weight", layer.gate_proj, {m_.mlp_width, d});
  v.matrix(prefix + "mlp.up_proj.weight", layer.up_proj, {m_.mlp_width, d});
  v.matrix(prefix + "mlp.down_proj.weight", layer.down_proj, {d, m_.mlp_width});
}

Tensor Hgrn2::attention(Where where,
                        const Tensor& u,
                        const Hgrn2Layer& layer,
                        LayerState& state,
                        const Recurrence& rule) const {
  Tensor q = ops::linear(u, layer.q_proj), f = ops::linear(u, layer.f_proj),
         i = ops::linear(u, layer.i_proj);
  if (m_.conv_width > 0) {
    const Tensor taps = at::cat({layer.q_conv, layer.f_conv, layer.i_conv}).squeeze(1);
    const ops::ConvResult conv =
        ops::short_conv(at::cat({q, f, i}, -1), taps, {}, state.conv, /*silu=*/false);
    state.conv = conv.columns;
    const auto parts = conv.y.chunk(3, -1);
    q = parts[0], f = parts[1], i = parts[2];
  }
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, {m_.heads, -1}); };
  RawGate gate{.kind = GateKind::Forget, .raw = to_heads(f)};
  if (const Tensor bound = lower_bound(where.layer); bound.defined())
    gate.base = to_heads(bound);
  const ScanInputs in = {.q = to_heads(ops::silu(q)), .k = {}, .v = to_heads(i), .gate = gate};
  // Upstream divides the outputs by sqrt(K). That matters only through the norm's eps, but early in
  // a stream they are that small: eps takes the factor.
  const Tensor y = rule.advance(where, in, state).flatten(-2);
  const double eps = m_.gate_norm_eps * static_cast<double>(m_.expand);
  return ops::linear(ops::rms_norm(y, layer.gate_norm, eps, dtype_), layer.o_proj);
}

/// As flash-linear-attention begins: all matrices normal, equal bounds.
void Hgrn2::initialise_gates(uint64_t seed) {
  const at::NoGradGuard no_grad;
  Refill refill(
      [&](const std::string& name, const std::vector<int64_t>& shape, Role role) {
        return role == Role::Matrix || role == Role::Embedding || role == Role::Conv
                   ? drawn_normal(seed, name, shape, m_.new_deviation)
                   : Tensor();
      },
      device_);
  visit(refill);
}

io::json Hgrn2::save_config() const {
  return {{"architectures", {"HGRN2ForCausalLM"}},
          {"model_type", "hgrn2"},
          {"hidden_size", m_.d_model},
          {"num_hidden_layers", m_.layers},
          {"num_heads", m_.heads},
          {"expand_ratio", m_.expand},
          {"intermediate_size", m_.mlp_width},
          {"vocab_size", config_.padded_vocab},
          {"norm_eps", m_.eps},
          {"use_short_conv", m_.conv_width > 0},
          {"conv_size", m_.conv_width > 0 ? m_.conv_width : 4},
          {"use_lower_bound", m_.has_lower_bounds},
          {"tie_word_embeddings", m_.tied},
          {"hidden_act", "swish"},
          {"elementwise_affine", true},
          {"attn_mode", "chunk"},
          {"pad_token_id", nullptr},
          {"bos_token_id", nullptr},
          {"eos_token_id", nullptr},
          {"dtype", "float32"}};
}

// ---- from a checkpoint ----

const ConfigTable kFla = {
    .kind = "fla",
    .model_types = {"hgrn2"},
    .read = {"hidden_size", "num_hidden_layers", "num_heads", "expand_ratio", "intermediate_size",
             "vocab_size", "norm_eps", "rms_norm_eps", "layer_norm_epsilon", "use_short_conv",
             "conv_size", "use_lower_bound", "tie_word_embeddings"},
    .fixed = {{"hidden_act", {"swish", "silu"}},
              {"elementwise_affine", {true}},
              {"clamp_min", {}, "a bound of the forget gate"},
              {"attn", {}, "a hybrid, which is not supported"},
              {"attnres_block_size", {}, "a hybrid, which is not supported"}},
    .harmless = {"attn_mode", "hidden_ratio", "share_conv_kernel"}};

const ConfigTable& config_table(const Checkpoint&, const Recognition&) {
  return kFla;
}

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  const auto& weights = checkpoint.weights;
  const bool gates =
      find_name(weights, "attn.f_proj.weight") && find_name(weights, "attn.i_proj.weight");
  if (!weights.has("model.lower_bounds") && !gates)
    return std::nullopt;
  if (const auto* found = find_name(weights, "attn.g_proj"))
    fail(Error::Kind::Input, "{}: '{}' is HGRN-1's output gate; HGRN-1 is not supported, HGRN-2 is",
         weights.path().string(), *found);
  if (const auto* found = find_name(weights, "h_conv1d"))
    fail(Error::Kind::Input,
         "{}: '{}' is a shared convolution before the projections, which is not supported",
         weights.path().string(), *found);
  const auto* split = find_name(weights, "mlp.up_proj.weight");
  return Recognition{
      .layout = split ? "fla" : "fla-fused-gate",
      .why = fmt::format("'{}' says HGRN-2; {} says which MLP",
                         gates ? *find_name(weights, "attn.f_proj.weight") : "model.lower_bounds",
                         split ? "'" + *split + "'" : "that there is no up_proj")};
}

/// Heads and expansion: their product is the width, and one of them is in the config.
void read_heads(const Checkpoint& checkpoint, Hgrn2Config& m) {
  const ConfigValues config(checkpoint);
  const auto expand = config.integer("expand_ratio"), heads = config.integer("num_heads");
  m.expand = expand.value_or(heads && *heads > 0 ? m.d_model / *heads : 128);
  const bool divides = m.expand > 0 && m.d_model % m.expand == 0;
  const auto shown = [](const std::optional<int64_t>& value) {
    return value ? fmt::format("{}", *value) : "not given";
  };
  config.check(divides && (!heads || *heads == m.d_model / m.expand),
               "expand_ratio is {} and num_heads {}, but their product is the width, {} in {}; "
               "these files do not belong together",
               shown(expand), shown(heads), m.d_model, checkpoint.weights.path().string());
  m.heads = m.d_model / m.expand;
}

/// What no tensor shows, and what one shows that the config says too.
void read_options(const Checkpoint& checkpoint, Hgrn2Config& m) {
  const ConfigValues config(checkpoint);
  const auto eps = config.eps("norm_eps"), older = config.eps("rms_norm_eps");
  m.eps = eps ? *eps : older.value_or(1e-6);
  config.agree_eps("norm_eps", m.eps);
  config.agree("use_lower_bound", m.has_lower_bounds, "model.lower_bounds");
  config.agree("use_short_conv", m.conv_width > 0, "model.layers.0.attn.q_conv1d.weight");
  if (m.conv_width > 0)
    config.agree("conv_size", m.conv_width);
  config.agree("hidden_size", m.d_model);
  config.agree("num_hidden_layers", m.layers);
  config.agree("intermediate_size", m.mlp_width);
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition&) {
  const auto& weights = checkpoint.weights;
  const auto& embedding = shape_of(checkpoint, "model.embeddings.weight", 2);
  Hgrn2Config m{};
  m.padded_vocab = embedding[0];
  m.d_model = embedding[1];
  m.layers = count_layers(weights, "model.layers.");
  check(m.layers > 0 && m.d_model > 0, Error::Kind::Input,
        "{}: has no 'model.layers.0.…'; is the file complete?", weights.path().string());
  read_heads(checkpoint, m);
  m.mlp_width = shape_of(checkpoint, "model.layers.0.mlp.down_proj.weight", 2)[1];
  m.has_lower_bounds = weights.has("model.lower_bounds");
  m.tied = head_is_tied(checkpoint, {"tie_word_embeddings"}, "model.embeddings.weight",
                        "lm_head.weight");
  if (weights.has("model.layers.0.attn.q_conv1d.weight"))
    m.conv_width = shape_of(checkpoint, "model.layers.0.attn.q_conv1d.weight", 3)[2];
  read_options(checkpoint, m);
  return std::make_unique<Hgrn2>(m, true_vocab(checkpoint, m.padded_vocab));
}

WeightMap weight_map(const Checkpoint& checkpoint, const Recognition& recognition) {
  WeightMap map;
  const auto& entries = checkpoint.weights.entries();
  const bool tied =
      entries.contains("lm_head.weight") && entries.contains("model.embeddings.weight") &&
      entries.at("lm_head.weight").storage == entries.at("model.embeddings.weight").storage;
  for (const auto& [name, entry] : entries) {
    map.sources[name] = {.file_name = name};
    const std::string_view fused = "mlp.gate_proj.weight";
    if (recognition.layout == "fla-fused-gate" && name.ends_with(fused)) {
      // Older files: one matrix, the gate's rows before the up projection's.
      const std::string stem = name.substr(0, name.size() - fused.size());
      map.sources[name].convert = [](const Tensor& both) {
        return both.narrow(0, 0, both.size(0) / 2);
      };
      map.sources[stem + "mlp.up_proj.weight"] = {
          .file_name = name, .convert = [](const Tensor& both) {
            const int64_t half = both.size(0) / 2;
            return both.narrow(0, half, both.size(0) - half);
          }};
    }
  }
  if (tied)
    map.ignored.insert("lm_head.weight");
  return map;
}

// ---- a new one ----

constexpr NewKey kNewKeys[] = {
    {"hidden_size"},
    {"num_hidden_layers"},
    {"expand_ratio", "hidden_size / num_heads; 128 without num_heads"},
    {"num_heads", "hidden_size / expand_ratio"},
    {"intermediate_size", "hidden_ratio x hidden_size x 2/3, up to a multiple of 256"},
    {"hidden_ratio", "4"},
    {"vocab_size", "the tokenizer's"},
    {"norm_eps", "1e-6"},
    {"use_short_conv", "false"},
    {"conv_size", "4"},
    {"use_lower_bound", "true"},
    {"tie_word_embeddings", "false"},
    {"initializer_range", "0.02"}};

const ConfigTable kNew = new_table("fla",
                                   "hgrn2",
                                   "HGRN2ForCausalLM",
                                   kNewKeys,
                                   {{"hidden_act", {"swish", "silu"}},
                                    {"elementwise_affine", {true}},
                                    {"clamp_min", {}, "a bound of the forget gate"},
                                    {"attn", {}, "a hybrid, which is not supported"}},
                                   {"attn_mode"});

/// The width of a new MLP.
int64_t new_mlp_width(const ConfigValues& values, int64_t d_model) {
  const int64_t ratio = new_size(values, "hidden_ratio", 4);
  return new_size(values, "intermediate_size", (d_model * ratio * 2 / 3 + 255) / 256 * 256);
}

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  check_new_config(values, "hgrn2", kNew);
  Hgrn2Config m{};
  m.d_model = new_size(values, "hidden_size");
  m.layers = new_size(values, "num_hidden_layers");
  const auto heads = values.integer("num_heads");
  values.check(!heads || (*heads > 0 && m.d_model % *heads == 0),
               "num_heads is {}, which does not divide hidden_size {}", heads.value_or(0),
               m.d_model);
  m.expand = new_size(values, "expand_ratio", heads ? m.d_model / *heads : 128);
  values.check(
      m.d_model % m.expand == 0 && m.d_model / m.expand == heads.value_or(m.d_model / m.expand),
      "expand_ratio is {}: times num_heads it is to be hidden_size {}", m.expand, m.d_model);
  m.heads = m.d_model / m.expand;
  m.mlp_width = new_mlp_width(values, m.d_model);
  m.padded_vocab = new_size(values, "vocab_size");
  m.eps = values.eps("norm_eps").value_or(1e-6);
  values.agree_eps("norm_eps", m.eps);
  m.has_lower_bounds = values.flag("use_lower_bound").value_or(true);
  m.tied = values.flag("tie_word_embeddings").value_or(false);
  if (values.flag("use_short_conv").value_or(false))
    m.conv_width = new_size(values, "conv_size", 4);
  m.new_deviation = values.number("initializer_range").value_or(m.new_deviation);
  values.check(m.new_deviation > 0 && m.new_deviation < 1e3,
               "initializer_range is {}, expected a deviation", m.new_deviation);
  return std::make_unique<Hgrn2>(m, m.padded_vocab);
}

// ---- as published ----

constexpr ModelSize kSizes[] = {
    {.name = "tiny", .d_model = 64, .layers = 2, .heads = 2, .vocab_rows = 256, .mlp_width = 128},
    {.name = "1.3b",
     .d_model = 2048,
     .layers = 24,
     .heads = 16,
     .vocab_rows = 32000,
     .mlp_width = 5632}};

Outline outline_of(const ModelSize& size) {
  const int64_t d = size.d_model;
  Outline outline{.shapes = {{"model.embeddings.weight", {size.vocab_rows, d}},
                             {"model.lower_bounds", {size.layers, d}},
                             {"lm_head.weight", {size.vocab_rows, d}}},
                  .config = {{"num_heads", size.heads}, {"expand_ratio", d / size.heads}}};
  for (int64_t i = 0; i < size.layers; ++i)
    for (const char* name : {"attn.f_proj.weight", "attn.i_proj.weight"})
      outline.shapes[fmt::format("model.layers.{}.{}", i, name)] = {d, d};
  outline.shapes["model.layers.0.mlp.up_proj.weight"] = {size.mlp_width, d};
  outline.shapes["model.layers.0.mlp.down_proj.weight"] = {d, size.mlp_width};
  return outline;
}

}  // namespace

const Family hgrn2_family = {.name = "hgrn2",
                             .recognise = recognise,
                             .config_table = config_table,
                             .make = make,
                             .weight_map = weight_map,
                             .make_new = make_new,
                             .new_keys = kNewKeys,
                             .terms = {.decay = DecayForm::PerChannel, .gate = GateKind::Forget},
                             .widths = {.heads = 16, .key_width = 128, .value_width = 128},
                             .sizes = kSizes,
                             .outline = outline_of};

}  // namespace stuffed
