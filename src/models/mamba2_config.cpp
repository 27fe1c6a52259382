// The keys of Mamba-2's configs in each layout, read, made and written.
#include "mamba2_config.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

/// Keys of Hugging Face's that only say how a model began.
constexpr std::string_view kBeginningKeys[] = {"time_step_min", "time_step_max", "time_step_floor",
                                               "initializer_range", "rescale_prenorm_residual"};

const ConfigTable kHf = {
    .kind = "hf",
    .model_types = {"mamba2"},
    .read = {"hidden_size",
             "d_model",
             "num_hidden_layers",
             "n_layer",
             "num_heads",
             "head_dim",
             "state_size",
             "n_groups",
             "conv_kernel",
             "expand",
             "vocab_size",
             "layer_norm_epsilon",
             "norm_eps",
             "rms_norm_eps",
             "use_bias",
             "use_conv_bias",
             "residual_in_fp32",
             "time_step_limit",
             "tie_word_embeddings",
             "tie_embeddings",
             "tie_embedding_weights",
             "stuffed_gated_norm"},
    .fixed = {{"hidden_act", {"silu", "swish"}},
              {"rms_norm", {true}, "a LayerNorm"},
              {"dt_limit", {}, "time_step_limit is its name here"},
              {"mixer_rms_eps", {}, "norms of dt, B and C"},
              {"d_intermediate", {0}, "an MLP after the mixer"},
              // Left by conversions from the original; Hugging Face's keys say all that is in it.
              {"ssm_cfg", {io::json::object(), io::json::object({{"layer", "Mamba2"}})}},
              {"attn_layer_idx", {io::json::array()}, "attention layers are not supported"}},
    // Hugging Face's code gates before the norm whatever norm_before_gate says.
    .harmless = {"norm_before_gate",
                 "chunk_size",
                 "time_step_rank",
                 "time_step_min",
                 "time_step_max",
                 "time_step_floor",
                 "time_step_scale",
                 "time_step_init_scheme",
                 "rescale_prenorm_residual",
                 "emb_initializer_range",
                 "A_initializer_range",
                 "intermediate_size",
                 "d_inner",
                 "fused_add_norm",
                 "pad_vocab_size_multiple",
                 "use_triton_kernels",
                 "use_mem_eff_path",
                 "use_mambapy",
                 "use_associative_scan",
                 "attn_cfg"}};

/// Conversions older than the merged code, which named some fields otherwise and knew attention and
/// an MLP. What they renamed holds the class's defaults under its other name: the tensors are
/// believed.
const ConfigTable kRenamed = {
    .kind = "hf, older names",
    .model_types = {"mamba2"},
    .read = {"hidden_size", "num_hidden_layers", "vocab_size", "mamba2_num_heads",
             "mamba2_head_dim", "mamba2_conv_kernel", "use_mamba2_bias", "layer_norm_epsilon",
             "norm_eps", "rms_norm_eps", "residual_in_fp32", "time_step_limit",
             "tie_word_embeddings", "tie_embeddings", "tie_embedding_weights",
             "stuffed_gated_norm"},
    .fixed = {{"hidden_act", {"silu", "swish"}},
              {"mlp_intermediate_size", {0}, "an MLP after the mixer"},
              {"attention_layers_idx", {io::json::array()}, "attention layers are not supported"},
              {"attn_layer_idx", {io::json::array()}, "attention layers are not supported"}},
    // Attention's and the MLP's say nothing where there is neither.
    .harmless = {"attention_head_dim",
                 "attention_conv_kernel",
                 "num_attention_heads",
                 "num_key_value_heads",
                 "use_attention_qkv_bias",
                 "use_attention_out_bias",
                 "rope_emb_dim",
                 "rope_theta",
                 "rope_scaling",
                 "mlp_padding_size",
                 "use_mlp_bias",
                 "num_heads",
                 "head_dim",
                 "conv_kernel",
                 "use_bias",
                 "use_conv_bias",
                 "n_groups",
                 "state_size",
                 "expand",
                 "intermediate_size",
                 "chunk_size",
                 "time_step_rank",
                 "time_step_min",
                 "time_step_max",
                 "time_step_floor",
                 "time_step_scale",
                 "time_step_init_scheme",
                 "norm_before_gate",
                 "rms_norm",
                 "A_initializer_range",
                 "emb_initializer_range",
                 "rescale_prenorm_residual",
                 "pad_vocab_size_multiple",
                 "use_mamba_kernels",
                 "use_mambapy",
                 "use_associative_scan"}};

/// mamba_ssm's config.json, and Mistral's params.json of Codestral.
const ConfigTable kOriginal = {
    .kind = "original",
    .model_types = {"mamba", "mamba2"},
    .read = {"d_model",          "dim",
             "n_layer",          "n_layers",
             "vocab_size",       "n_groups",
             "d_intermediate",   "residual_in_fp32",
             "tie_embeddings",   "stuffed_gated_norm",
             "norm_epsilon",     "norm_eps",
             "rms_norm_eps",     "ssm_cfg.d_state",
             "ssm_cfg.headdim",  "ssm_cfg.ngroups",
             "ssm_cfg.d_conv",   "ssm_cfg.expand",
             "ssm_cfg.d_ssm",    "ssm_cfg.D_has_hdim",
             "ssm_cfg.rmsnorm",  "ssm_cfg.norm_before_gate",
             "ssm_cfg.dt_limit", "ssm_cfg.bias",
             "ssm_cfg.conv_bias"},
    .fixed = {{"rms_norm", {true}, "a LayerNorm"},
              {"attn_layer_idx", {io::json::array()}, "attention layers are not supported"},
              {"ssm_cfg.layer", {"Mamba2"}, "a layer of other tensors"},
              {"ssm_cfg.activation", {"silu", "swish"}}},
    .harmless = {"fused_add_norm", "pad_vocab_size_multiple", "attn_cfg", "initializer_cfg",
                 "ssm_cfg.chunk_size", "ssm_cfg.A_init_range", "ssm_cfg.dt_min", "ssm_cfg.dt_max",
                 "ssm_cfg.dt_init_floor", "ssm_cfg.conv_init", "ssm_cfg.use_mem_eff_path",
                 "ssm_cfg.sequence_parallel", "ssm_cfg.process_group", "ssm_cfg.layer_idx",
                 "ssm_cfg.device", "ssm_cfg.dtype"}};

bool has_renamed_fields(const Checkpoint& checkpoint) {
  return config_has_any(checkpoint, {"mamba2_num_heads", "mamba2_head_dim", "mamba2_conv_kernel"});
}

/// Bounds of the steps dt: [low, high], where null stands for no bound, and so does a number beyond
/// what f32 holds.
std::pair<double, double> read_step_limit(const ConfigValues& config, std::string_view key) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const io::json* limit = config.find(key);
  if (!limit)
    return {0, kNone};
  const auto bound = [](const io::json& value, double none) {
    if (value.is_null())
      return none;
    const double x = value.is_number() ? value.get<double>() : std::nan("");
    return std::abs(x) > std::numeric_limits<float>::max() ? std::copysign(kNone, x) : x;
  };
  const bool is_pair = limit->is_array() && limit->size() == 2;
  const double low = is_pair ? bound((*limit)[0], 0) : kNone;
  const double high = is_pair ? bound((*limit)[1], kNone) : 0;
  config.check(low <= high && low < kNone,  // false for NaN
               "{} is {}, expected two numbers, the least and the largest step (null for no limit)",
               config.named(key), shown_value(*limit));
  return {low, high};
}

/// By group or over the whole width? The command line says, else the folder's own key, else
/// mamba_ssm's way is taken.
void choose_norm(const Checkpoint& checkpoint, const Recognition& recognition, Mamba2Config& m) {
  const ConfigValues config(checkpoint);
  const auto own = config.text("stuffed_gated_norm");
  config.check(!own || *own == "group" || *own == "whole",
               "stuffed_gated_norm is \"{}\", expected \"group\" or \"whole\"", own.value_or(""));
  const auto& asked = checkpoint.reading.gated_norm;
  m.norm_is_grouped = (asked ? *asked : own.value_or("group")) == "group";
  if (m.has_norm_choice() && !asked && !own && recognition.layout == "hf")
    m.warnings.push_back(fmt::format(
        "{}: {} groups: the gated norm is taken by group, as mamba_ssm trains; a model that was "
        "trained in transformers needs --gated-norm whole",
        checkpoint.config.is_null() ? checkpoint.weights.path().string()
                                    : checkpoint.config_path.string(),
        m.groups));
}

/// What no tensor shows: options of the original's ssm_cfg, or of Hugging Face's flat config.
void read_options(const Checkpoint& checkpoint, const Recognition& recognition, Mamba2Config& m) {
  const ConfigValues config(checkpoint), ssm(checkpoint, "ssm_cfg");
  const bool hf = recognition.layout == "hf";
  m.residual_in_f32 = config.flag("residual_in_fp32").value_or(true);
  if (hf)
    m.eps = config.eps("layer_norm_epsilon").value_or(1e-5);
  config.agree_eps(hf ? "layer_norm_epsilon" : "a fixed one", m.eps);
  // Hugging Face's code gates before the norm whatever its config says.
  m.norm_before_gate = hf ? false : ssm.flag("norm_before_gate").value_or(false);
  std::tie(m.dt_min, m.dt_max) =
      hf ? read_step_limit(config, "time_step_limit") : read_step_limit(ssm, "dt_limit");
  choose_norm(checkpoint, recognition, m);
}

/// Groups and state width cannot be told apart by shapes: the config says, or the only two
/// published cases do.
void read_groups(const Checkpoint& checkpoint, int64_t bc_channels, Mamba2Config& m) {
  // An older conversion's config has the class's defaults in the fields it renamed: not believed.
  const bool believed = !has_renamed_fields(checkpoint);
  const ConfigValues config(checkpoint), ssm(checkpoint, "ssm_cfg");
  std::vector<std::string> said;
  const auto from = [&](const char* key, const char* original) -> std::optional<int64_t> {
    auto value = believed ? config.integer(key) : std::nullopt;
    const std::string name = value ? key : ssm.named(original);
    if (!value)
      value = ssm.integer(original);
    if (value)
      said.push_back(fmt::format("{} is {}", name, *value));
    return value;
  };
  const int64_t published = m.heads == 128 && m.d_model == 4096 ? 8 : 1;
  const auto groups = from("n_groups", "ngroups"), width = from("state_size", "d_state");
  const bool divides = width && *width > 0 && bc_channels % *width == 0;
  m.groups = groups.value_or(divides ? bc_channels / *width : published);
  config.check(
      m.groups > 0 && bc_channels % m.groups == 0 && m.heads % m.groups == 0 &&
          (!width || *width == bc_channels / m.groups),
      "{}, but the tensors of {} have {} B channels and {} heads; these files do not "
      "belong together",
      said.empty() ? "no number of groups is given" : fmt::format("{}", fmt::join(said, " and ")),
      checkpoint.weights.path().string(), bc_channels, m.heads);
  m.state_width = bc_channels / m.groups;
}

Mamba2Config read_shapes(const Checkpoint& checkpoint) {
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
  read_groups(checkpoint, two_gn / 2, m);
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
  return m;
}

void check_expand(const ConfigValues& config, const Mamba2Config& m) {
  const auto expand = config.number("expand");
  config.check(
      !expand || *expand * static_cast<double>(m.d_model) == static_cast<double>(m.d_inner()),
      "{} is {}, but the tensors say {} channels for a width of {}; these files do not belong "
      "together",
      config.named("expand"), expand.value_or(0), m.d_inner(), m.d_model);
}

/// What the tensors show and the config says too.
void check_shapes(const Checkpoint& checkpoint,
                  const Recognition& recognition,
                  const Mamba2Config& m) {
  const ConfigValues config(checkpoint), ssm(checkpoint, "ssm_cfg");
  for (const char* key : {"d_model", "hidden_size", "dim"})
    config.agree(key, m.d_model);
  for (const char* key : {"n_layer", "num_hidden_layers", "n_layers"})
    config.agree(key, m.layers);
  const std::string mixer = mamba_prefix(checkpoint) + "backbone.layers.0.mixer.";
  if (has_renamed_fields(checkpoint)) {
    config.agree("mamba2_num_heads", m.heads);
    config.agree("mamba2_head_dim", m.head_width);
    config.agree("mamba2_conv_kernel", m.conv_width);
    config.agree("use_mamba2_bias", m.projection_bias, mixer + "in_proj.bias");
    return;
  }
  check_mamba_biases(checkpoint, recognition.layout);
  if (recognition.layout == "hf") {
    config.agree("num_heads", m.heads);
    config.agree("head_dim", m.head_width);
    config.agree("state_size", m.state_width);
    config.agree("conv_kernel", m.conv_width);
    check_expand(config, m);
    return;
  }
  ssm.agree("d_state", m.state_width);
  ssm.agree("headdim", m.head_width);
  ssm.agree("d_conv", m.conv_width);
  ssm.agree("d_ssm", m.d_inner());
  ssm.agree("rmsnorm", m.has_norm, mixer + "norm.weight");
  check_expand(ssm, m);
  const auto per_channel = ssm.flag("D_has_hdim");
  ssm.check(!per_channel || *per_channel == m.d_per_channel || m.head_width == 1,
            "{} is {}, but '{}D' has {} numbers", ssm.named("D_has_hdim"),
            per_channel.value_or(false), mixer, m.d_per_channel ? m.d_inner() : m.heads);
  const auto mlp = config.integer("d_intermediate");
  config.check(!mlp || (*mlp >= 0 && (*mlp + 127) / 128 * 128 == m.d_mlp),
               "d_intermediate is {}, but the tensors' MLP has a width of {}", mlp.value_or(0),
               m.d_mlp);
}

// ---- a new one ----

/// What a new model's config can say: what decides a number is honoured, what names or labels is
/// kept, and no other key is taken.
const ConfigTable kNew =
    new_table("hf",
              "mamba2",
              "Mamba2ForCausalLM",
              kNewMamba2Keys,
              {{"hidden_act", {"silu", "swish"}},
               {"rms_norm", {true}, "a LayerNorm"},
               {"norm_before_gate", {false}, "transformers gates before the norm"}},
              {"chunk_size", "time_step_rank"});

/// Of the config's keys those that change no number, to be saved with the model.
io::json kept_keys(const io::json& config) {
  io::json kept = io::json::object();
  for (const auto& [key, value] : config.items())
    if (std::ranges::find(kNew.read, key) == kNew.read.end() ||
        std::ranges::find(kBeginningKeys, key) != std::end(kBeginningKeys))
      kept[key] = value;
  return kept;
}

void read_new_options(const ConfigValues& config, Mamba2Config& m) {
  m.projection_bias = config.flag("use_bias").value_or(false);
  m.conv_bias = config.flag("use_conv_bias").value_or(true);
  m.residual_in_f32 = config.flag("residual_in_fp32").value_or(true);
  m.tied = config.flag("tie_word_embeddings").value_or(true);
  m.eps = config.eps("layer_norm_epsilon").value_or(m.eps);
  config.agree_eps("layer_norm_epsilon", m.eps);
  std::tie(m.dt_min, m.dt_max) = read_step_limit(config, "time_step_limit");
  const std::string form = config.text("stuffed_gated_norm").value_or("whole");
  config.check(form == "group" || form == "whole",
               "stuffed_gated_norm is \"{}\", expected \"group\" or \"whole\"", form);
  m.norm_is_grouped = form == "group";
  config.check(
      !(m.has_norm_choice() && m.norm_is_grouped) || m.eps == 1e-5,
      "layer_norm_epsilon is {}: the original layout, which a gated norm by group is saved "
      "in, has 1e-5 alone",
      m.eps);
}

int64_t new_heads(const ConfigValues& config, const Mamba2Config& m) {
  const auto expand = config.integer("expand"), heads = config.integer("num_heads");
  const int64_t inner = expand.value_or(2) * m.d_model;
  config.check(!expand || *expand > 0, "expand is {}, expected a positive whole number",
               expand.value_or(0));
  config.check(heads || inner % m.head_width == 0, "head_dim {} does not divide the {} channels",
               m.head_width, inner);
  config.check(!heads || !expand || *heads * m.head_width == inner,
               "num_heads {} of head_dim {} are not the {} channels of expand {}",
               heads.value_or(0), m.head_width, inner, expand.value_or(2));
  return heads.value_or(inner / m.head_width);
}

// ---- written ----

/// As newer transformers write what JSON has no number for.
io::json limit_as_json(double limit) {
  if (std::isfinite(limit))
    return limit;
  return {{"__float__", limit > 0 ? "Infinity" : "-Infinity"}};
}

io::json hf_config(const Mamba2Config& m) {
  io::json config = {{"architectures", {"Mamba2ForCausalLM"}},
                     {"model_type", "mamba2"},
                     {"hidden_size", m.d_model},
                     {"num_hidden_layers", m.layers},
                     {"num_heads", m.heads},
                     {"head_dim", m.head_width},
                     {"state_size", m.state_width},
                     {"n_groups", m.groups},
                     {"conv_kernel", m.conv_width},
                     {"expand", m.d_inner() / m.d_model},
                     {"vocab_size", m.padded_vocab},
                     {"layer_norm_epsilon", m.eps},
                     {"use_bias", m.projection_bias},
                     {"use_conv_bias", m.conv_bias},
                     {"rms_norm", true},
                     {"norm_before_gate", m.norm_before_gate},
                     {"residual_in_fp32", m.residual_in_f32},
                     {"tie_word_embeddings", m.tied},
                     {"hidden_act", "silu"},
                     {"chunk_size", 64},
                     {"pad_token_id", nullptr},
                     {"bos_token_id", nullptr},
                     {"eos_token_id", nullptr},
                     {"dtype", "float32"}};
  if (m.has_norm_choice())
    config["stuffed_gated_norm"] = "whole";
  if (m.dt_min > 0 || std::isfinite(m.dt_max))
    config["time_step_limit"] = {limit_as_json(m.dt_min), limit_as_json(m.dt_max)};
  return config;
}

io::json original_config(const Mamba2Config& m) {
  io::json mixer = {{"layer", "Mamba2"},
                    {"d_state", m.state_width},
                    {"d_conv", m.conv_width},
                    {"expand", m.d_inner() / m.d_model},
                    {"headdim", m.head_width},
                    {"ngroups", m.groups},
                    {"bias", m.projection_bias},
                    {"conv_bias", m.conv_bias},
                    {"norm_before_gate", m.norm_before_gate}};
  if (m.dt_min > 0 || std::isfinite(m.dt_max))
    mixer["dt_limit"] = {limit_as_json(m.dt_min), limit_as_json(m.dt_max)};
  return {{"d_model", m.d_model},
          {"d_intermediate", 0},
          {"n_layer", m.layers},
          {"vocab_size", m.padded_vocab},
          {"ssm_cfg", mixer},
          {"attn_layer_idx", io::json::array()},
          {"attn_cfg", io::json::object()},
          {"rms_norm", true},
          {"residual_in_fp32", m.residual_in_f32},
          {"fused_add_norm", true},
          {"pad_vocab_size_multiple", 1},
          {"tie_embeddings", m.tied}};
}

}  // namespace

const ConfigTable& mamba2_config_table(const Checkpoint& checkpoint,
                                       const Recognition& recognition) {
  if (has_renamed_fields(checkpoint))
    return kRenamed;
  return recognition.layout == "hf" ? kHf : kOriginal;
}

Mamba2Config read_mamba2_config(const Checkpoint& checkpoint, const Recognition& recognition) {
  Mamba2Config m = read_shapes(checkpoint);
  check_shapes(checkpoint, recognition, m);
  read_options(checkpoint, recognition, m);
  return m;
}

Mamba2Config new_mamba2_config(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  check_new_config(values, "mamba2", kNew);
  const auto need = [&](const char* key) { return new_size(values, key); };
  Mamba2Config m{};
  m.d_model = need("hidden_size");
  m.layers = need("num_hidden_layers");
  m.head_width = need("head_dim");
  m.state_width = need("state_size");
  m.heads = new_heads(values, m);
  m.groups = values.integer("n_groups").value_or(1);
  m.conv_width = values.integer("conv_kernel").value_or(4);
  m.padded_vocab = need("vocab_size");
  check(m.heads > 0 && m.groups > 0 && m.conv_width > 1, Error::Kind::Usage,
        "num_heads ({}) and n_groups ({}) must be positive, conv_kernel ({}) at least 2", m.heads,
        m.groups, m.conv_width);
  check(m.heads % m.groups == 0 && m.d_inner() % m.d_model == 0, Error::Kind::Usage,
        "heads ({}) must be a multiple of groups ({}), and heads x head_dim ({}) one of "
        "hidden_size ({})",
        m.heads, m.groups, m.d_inner(), m.d_model);
  read_new_options(values, m);
  read_mamba_beginning(values, m.beginning);
  m.kept = kept_keys(config);
  return m;
}

io::json saved_mamba2_config(const Mamba2Config& m) {
  check(m.d_mlp == 0 && !m.d_per_channel && m.has_norm && m.d_inner() % m.d_model == 0,
        Error::Kind::Unsupported,
        "this Mamba-2 has parts (an MLP, D per channel, no norm, a fractional expansion) that the "
        "Hugging Face layout cannot hold");
  if (m.is_saved_as_original())
    return original_config(m);
  io::json config = hf_config(m);
  config.update(m.kept);
  return config;
}

}  // namespace stuffed
