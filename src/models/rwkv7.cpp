// RWKV-7 "Goose" (arXiv:2503.14456) from BlinkDL's and flash-linear-attention's layouts: a delta
// rule, which erases along a normalised key before it writes.
#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ATen.h>

#include "rwkv_beginning.h"
#include "rwkv_blocks.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/delta_rule.h"

namespace stuffed {

namespace {

/// base + f(x in) out, all in BlinkDL's [in, out] orientation.
struct LowRankMap {
  Tensor base;     // [out] f32, or undefined
  Tensor in, out;  // [D,R], [R,out]
};

struct Rwkv7Layer {
  std::array<Tensor, 6> share;  // [D], by kMixes
  LowRankMap decay, rate, value_mix, gate;
  Tensor key_k, key_a;  // [D]
  Tensor bonus;         // [H,S]
  ops::Linear receptance, key, value, output;
  LayerNormWeights ln_x;
  Tensor ffn_share;  // [D]
  ops::Linear ffn_key, ffn_value;
};

enum Mix : size_t { kR, kW, kK, kV, kA, kG };
constexpr std::array kMixes = {"r", "w", "k", "v", "a", "g"};

struct LowRanks {
  int64_t decay, rate, value, gate;
};

class Rwkv7 : public RwkvModel {
 public:
  Rwkv7(const RwkvConfig& config, LowRanks ranks, int64_t vocab)
      : RwkvModel(config, vocab), ranks_(ranks), layers_(static_cast<size_t>(config.layers)) {}

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override;
  std::pair<std::string, Tensor> saved(const std::string& name,
                                       const Tensor& tensor) const override;

 protected:
  void visit_block(ParameterVisitor& v, const std::string& prefix, size_t i) override {
    Rwkv7Layer& layer = layers_[i];
    const int64_t d = r_.d_model;
    const std::string att = prefix + "att.", ffn = prefix + "ffn.";
    for (size_t m = 0; m < kMixes.size(); ++m)
      v.parameter(att + "x_" + kMixes[m], layer.share[m], {d}, Role::Gate);
    visit_low_rank(v, att + "w", layer.decay, ranks_.decay, true);
    visit_low_rank(v, att + "a", layer.rate, ranks_.rate, true);
    if (i > 0)  // the first block's values are the ones the others mix in
      visit_low_rank(v, att + "v", layer.value_mix, ranks_.value, true);
    visit_low_rank(v, att + "g", layer.gate, ranks_.gate, false);
    v.parameter(att + "k_k", layer.key_k, {d}, Role::Gate);
    v.parameter(att + "k_a", layer.key_a, {d}, Role::Gate);
    v.parameter(att + "r_k", layer.bonus, {r_.heads, r_.head_size}, Role::Gate);
    v.matrix(att + "receptance.weight", layer.receptance, {d, d});
    v.matrix(att + "key.weight", layer.key, {d, d});
    v.matrix(att + "value.weight", layer.value, {d, d});
    v.matrix(att + "output.weight", layer.output, {d, d});
    layer.ln_x.visit(v, att + "ln_x", d);
    v.parameter(ffn + "x_k", layer.ffn_share, {d}, Role::Gate);
    v.matrix(ffn + "key.weight", layer.ffn_key, {r_.ffn_width, d});
    v.matrix(ffn + "value.weight", layer.ffn_value, {d, r_.ffn_width});
  }

  Tensor time_mix(Where where,
                  const ops::TokenShift& x,
                  LayerState& state,
                  const Recurrence& rule,
                  Pass& pass) const override;

  Tensor channel_mix(size_t i, const ops::TokenShift& x) const override {
    const Rwkv7Layer& layer = layers_[i];
    return ops::linear(ops::relu_square(ops::linear(x.mix(layer.ffn_share), layer.ffn_key)),
                       layer.ffn_value);
  }

 private:
  void visit_low_rank(
      ParameterVisitor& v, const std::string& name, LowRankMap& map, int64_t rank, bool has_base) {
    if (has_base)
      v.parameter(name + "0", map.base, {r_.d_model}, Role::Gate);
    v.parameter(name + "1", map.in, {r_.d_model, rank}, Role::Matrix);
    v.parameter(name + "2", map.out, {rank, r_.d_model}, Role::Matrix);
  }

  LowRanks ranks_;
  std::vector<Rwkv7Layer> layers_;
};

Tensor Rwkv7::time_mix(Where where,
                       const ops::TokenShift& x,
                       LayerState& state,
                       const Recurrence& rule,
                       Pass& pass) const {
  const Rwkv7Layer& layer = layers_[static_cast<size_t>(where.layer)];
  const auto mixed = [&](Mix m) { return x.mix(layer.share[m]); };
  const auto low_rank = [](const Tensor& input, const LowRankMap& map) {
    return product(product(input, map.in), map.out);
  };
  const Tensor value_input = mixed(kV);
  const Tensor r = ops::linear(mixed(kR), layer.receptance);
  DeltaRuleStreams streams{
      .query = r,
      .key = ops::linear(mixed(kK), layer.key),
      .value = ops::linear(value_input, layer.value),
      .decay = product(at::tanh(product(mixed(kW), layer.decay.in)), layer.decay.out),
      .rate = low_rank(mixed(kA), layer.rate)};
  if (pass.first_value.defined()) {
    streams.value_mix = low_rank(value_input, layer.value_mix);
    streams.first_value = pass.first_value;
  } else {
    pass.first_value = streams.value;
  }
  const DeltaRuleGates gates = ops::delta_rule_gates(streams, {.decay_base = layer.decay.base,
                                                               .rate_base = layer.rate.base,
                                                               .value_base = layer.value_mix.base,
                                                               .read_scale = layer.key_k,
                                                               .rate_scale = layer.key_a,
                                                               .bonus = layer.bonus});
  const ScanInputs in = {
      .q = to_heads(r),
      .k = to_heads(gates.key),
      .v = to_heads(gates.value),
      .log_decay = to_heads(gates.log_decay),
      .erase = Erase{.read = to_heads(gates.read), .write = to_heads(gates.write)}};
  const Tensor y = rule.advance(where, in, state).flatten(-2);
  const Tensor gate = product(ops::sigmoid(product(mixed(kG), layer.gate.in)), layer.gate.out);
  return ops::linear(ops::delta_rule_output(y, gates.value, gates.strength, gate, layer.ln_x.weight,
                                            layer.ln_x.bias, r_.ln_x_eps),
                     layer.output);
}

/// Matrices that RWKV-LM draws by the width, and the low-rank ones: first zero, then orthogonal.
Tensor new_matrix(uint64_t seed, const std::string& name, const std::vector<int64_t>& shape) {
  const auto uniform = [&](double bound) {
    return drawn_uniform(seed, name, shape, bound / std::sqrt(static_cast<double>(shape[1])));
  };
  if (name.ends_with(".weight"))
    return uniform(name.ends_with("att.key.weight") ? 0.05 : 0.5);
  if (name.ends_with("1"))
    return at::zeros(shape, at::TensorOptions(at::kFloat));
  const double tallness = static_cast<double>(shape[0]) / static_cast<double>(shape[1]);
  return drawn_orthogonal(seed, name, shape, 0.1 * std::sqrt(std::max(1.0, tallness)));
}

void Rwkv7::initialise_gates(uint64_t seed) {
  refill([&](const std::string& name, const std::vector<int64_t>& shape, Role role) {
    const Tensor shared = rwkv_new_weight(seed, name, shape, r_.layers);
    return shared.defined() || role != Role::Matrix ? shared : new_matrix(seed, name, shape);
  });
  constexpr std::array kPowers = {0.2, 0.9, 0.7, 0.7, 0.9, 0.2};  // by kMixes
  const Tensor line = rwkv_line(r_.d_model), slope = line - 0.5;
  const Tensor in_head = rwkv_line(r_.head_size).repeat({r_.heads}) * 2 - 1;  // -1 to 1
  const Tensor curve = in_head * in_head.abs();
  const auto put = [&](Tensor& home, const Tensor& value) {
    if (home.defined())
      home = value.to(device_, at::kFloat);
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    Rwkv7Layer& layer = layers_[i];
    const RwkvDepth depth(static_cast<int64_t>(i), r_.layers);
    for (size_t m = 0; m < kMixes.size(); ++m)
      put(layer.share[m], 1 - rwkv_ramp(r_.d_model, kPowers[m] * depth.falling));
    put(layer.decay.base, -6 + 6 * line.pow(1 + std::pow(depth.rising, 0.3)) + 0.5 + 2.5 * curve);
    put(layer.rate.base, -0.19 + 0.3 * curve + 0.4 * slope);
    put(layer.value_mix.base, 0.73 - 0.4 * slope);
    put(layer.key_k, 0.71 - 0.1 * slope);
    put(layer.key_a, at::full_like(line, 1.02));
    put(layer.bonus, at::full({r_.heads, r_.head_size}, -0.04, line.options()));
    put(layer.ffn_share, 1 - rwkv_ramp(r_.d_model, std::pow(depth.falling, 4)));
  }
}

/// In flash-linear-attention's layout.
io::json Rwkv7::save_config() const {
  return {{"architectures", {"RWKV7ForCausalLM"}},
          {"model_type", "rwkv7"},
          {"hidden_size", r_.d_model},
          {"num_hidden_layers", r_.layers},
          {"head_dim", r_.head_size},
          {"num_heads", r_.heads},
          {"intermediate_size", r_.ffn_width},
          {"vocab_size", r_.vocab_rows},
          {"norm_eps", r_.eps},
          {"norm_first", true},
          {"norm_bias", true},
          {"hidden_act", "sqrelu"},
          {"decay_low_rank_dim", ranks_.decay},
          {"a_low_rank_dim", ranks_.rate},
          {"v_low_rank_dim", ranks_.value},
          {"gate_low_rank_dim", ranks_.gate},
          {"tie_word_embeddings", false},
          {"attn_mode", "chunk"},
          {"pad_token_id", nullptr},
          {"bos_token_id", nullptr},
          {"eos_token_id", nullptr},
          {"dtype", "float32"}};
}

/// flash-linear-attention's name of what BlinkDL calls `part` within a block.
std::string fla_part(const std::string& part) {
  for (const auto& [ours, theirs] : {std::pair{"ln0.", "pre_norm."},
                                     {"ln1.", "attn_norm."},
                                     {"ln2.", "ffn_norm."},
                                     {"att.ln_x.", "attn.g_norm."},
                                     {"att.receptance.", "attn.r_proj."},
                                     {"att.key.", "attn.k_proj."},
                                     {"att.value.", "attn.v_proj."},
                                     {"att.output.", "attn.o_proj."}})
    if (part.starts_with(ours))
      return theirs + part.substr(std::string_view(ours).size());
  if (!part.starts_with("att."))
    return part;
  const std::string name = part.substr(4);
  if (name.size() != 2)  // x_r, k_k and the like
    return "attn." + name;
  const char* const end = name[1] == '0' ? "2.bias" : name[1] == '1' ? "0.weight" : "2.weight";
  return fmt::format("attn.{}_lora.lora.{}", name[0], end);
}

std::pair<std::string, Tensor> Rwkv7::saved(const std::string& name, const Tensor& tensor) const {
  for (const auto& [ours, theirs] :
       {std::pair{"emb.", "model.embeddings."}, {"head.", "lm_head."}, {"ln_out.", "model.norm."}})
    if (name.starts_with(ours))
      return {theirs + name.substr(std::string_view(ours).size()), tensor};
  const size_t dot = name.find('.', 7);  // behind "blocks.N"
  const std::string theirs = fla_part(name.substr(dot + 1));
  const bool is_row = theirs.starts_with("attn.x_");
  const bool is_low_rank = theirs.find("_lora.") != std::string::npos && tensor.dim() == 2;
  return {fmt::format("model.layers.{}.{}", name.substr(7, dot - 7), theirs),
          is_row        ? tensor.unsqueeze(0).unsqueeze(0)
          : is_low_rank ? tensor.t()
                        : tensor};
}

// ---- a new one ----

constexpr NewKey kNewKeys[] = {{"hidden_size"},
                               {"num_hidden_layers"},
                               {"head_dim", "64"},
                               {"num_heads", "hidden_size / head_dim"},
                               {"intermediate_size", "4 x hidden_size"},
                               {"decay_low_rank_dim", "2.5 sqrt(hidden_size), a multiple of 32"},
                               {"a_low_rank_dim", "the same"},
                               {"v_low_rank_dim", "1.7 sqrt(hidden_size), a multiple of 32"},
                               {"gate_low_rank_dim", "5 sqrt(hidden_size), a multiple of 32"},
                               {"norm_eps", "64e-5 / head_dim"},
                               {"vocab_size", "the tokenizer's"}};

const ConfigTable kNew = new_table("fla",
                                   "rwkv7",
                                   "RWKV7ForCausalLM",
                                   kNewKeys,
                                   {{"norm_first", {true}},
                                    {"norm_bias", {true}},
                                    {"elementwise_affine", {true}},
                                    {"hidden_act", {"sqrelu"}},
                                    {"attn", {}, "a hybrid, which is not supported"},
                                    {"tie_word_embeddings", {false}, "RWKV has a head of its own"}},
                                   {"attn_mode"});

/// The heads' norm takes head_dim times norm_eps, and is to take what RWKV-LM trains with, 64e-5,
/// unless the config says otherwise.
void read_new_eps(const ConfigValues& values, RwkvConfig& config) {
  const double heads_eps = 64e-5, head_size = static_cast<double>(config.head_size);
  const auto eps = values.eps("norm_eps");
  config.eps = config.head_size == 64 ? 1e-5 : heads_eps / head_size;
  values.check(!eps || *eps != 1e-5 || config.head_size == 64,
               "norm_eps is 1e-5 with heads of {}: published files mean two things by that; leave "
               "it out, or name another",
               config.head_size);
  config.eps = eps.value_or(config.eps);
  values.agree_eps("norm_eps", config.eps);
  config.ln_x_eps = config.eps == 1e-5 ? heads_eps : head_size * config.eps;
}

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  check_new_config(values, "rwkv7", kNew);
  RwkvConfig r{.d_model = new_size(values, "hidden_size"),
               .layers = new_size(values, "num_hidden_layers"),
               .heads = 0,
               .head_size = new_size(values, "head_dim", 64),
               .ffn_width = 0,
               .vocab_rows = new_size(values, "vocab_size")};
  values.check(r.d_model % r.head_size == 0, "head_dim {} does not divide hidden_size {}",
               r.head_size, r.d_model);
  r.heads = r.d_model / r.head_size;
  values.check(values.integer("num_heads").value_or(r.heads) == r.heads,
               "num_heads is {}, but hidden_size / head_dim is {}",
               values.integer("num_heads").value_or(0), r.heads);
  r.ffn_width = new_size(values, "intermediate_size", 4 * r.d_model);
  read_new_eps(values, r);
  const auto rank = [&](const char* key, double factor) {
    const double suggested = factor * std::sqrt(static_cast<double>(r.d_model)) / 32;
    return new_size(values, key, std::max<int64_t>(1, std::llround(suggested)) * 32);
  };
  const LowRanks ranks = {.decay = rank("decay_low_rank_dim", 2.5),
                          .rate = rank("a_low_rank_dim", 2.5),
                          .value = rank("v_low_rank_dim", 1.7),
                          .gate = rank("gate_low_rank_dim", 5)};
  return std::make_unique<Rwkv7>(r, ranks, r.vocab_rows);
}

// ---- from a checkpoint ----

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  const auto& weights = checkpoint.weights;
  for (const char* part : {"att.r_k", "att.k_k"})
    if (const auto* name = find_name(weights, part); name && name->ends_with(part))
      return Recognition{.layout = "blinkdl",
                         .why = fmt::format("'{}' says RWKV-7 in BlinkDL's names", *name)};
  if (const auto* name = find_name(weights, "attn.w_lora."))
    return Recognition{
        .layout = "fla",
        .why = fmt::format("'{}' says RWKV-7 in flash-linear-attention's names", *name)};
  return std::nullopt;
}

void map_fla_layer(WeightMap& map, const io::TensorDirectory& weights, int64_t i) {
  const auto transpose = [](const Tensor& w) { return w.t(); };
  const auto flatten = [](const Tensor& w) { return w.flatten(); };
  const std::string from = fmt::format("model.layers.{}.", i), to = fmt::format("blocks.{}.", i);
  for (const auto& [ours, theirs] :
       {std::pair{"ln1", "attn_norm"}, {"ln2", "ffn_norm"}, {"att.ln_x", "attn.g_norm"}})
    for (const char* part : {"weight", "bias"})
      map.sources[fmt::format("{}{}.{}", to, ours, part)] = {
          .file_name = fmt::format("{}{}.{}", from, theirs, part)};
  // Version 1 of upstream's layer keeps the six in one tensor, [6,D] or [6,1,1,D].
  const bool packed = weights.has(from + "attn.x_x");
  for (size_t m = 0; m < kMixes.size(); ++m) {
    WeightSource& source = map.sources[to + "att.x_" + kMixes[m]];
    source.file_name = from + "attn.x_" + (packed ? "x" : kMixes[m]);
    source.convert = flatten;
    if (packed)
      source.convert = [m](const Tensor& rows) {
        TORCH_CHECK(rows.dim() > 0 && rows.size(0) == static_cast<int64_t>(kMixes.size()),
                    "a row for each mix");
        return rows[static_cast<int64_t>(m)].flatten();
      };
  }
  for (const char* lora : {"w", "a", "v", "g"}) {
    const std::string theirs = fmt::format("{}attn.{}_lora.lora.", from, lora),
                      ours = to + "att." + lora;
    map.sources[ours + "1"] = {.file_name = theirs + "0.weight", .convert = transpose};
    map.sources[ours + "2"] = {.file_name = theirs + "2.weight", .convert = transpose};
    if (weights.has(theirs + "2.bias"))
      map.sources[ours + "0"] = {.file_name = theirs + "2.bias"};
    if (i == 0 && std::string_view(lora) == "v")
      for (const char* part : {"0.weight", "2.weight", "2.bias"})
        map.ignored.insert(theirs + part);
  }
  for (const char* key : {"k_k", "k_a"})
    map.sources[to + "att." + key] = {.file_name = from + "attn." + key, .convert = flatten};
  map.sources[to + "att.r_k"] = {.file_name = from + "attn.r_k"};
  for (const auto& [ours, theirs] :
       {std::pair{"receptance", "r"}, {"key", "k"}, {"value", "v"}, {"output", "o"}})
    map.sources[fmt::format("{}att.{}.weight", to, ours)] = {
        .file_name = fmt::format("{}attn.{}_proj.weight", from, theirs)};
  map.sources[to + "ffn.x_k"] = {.file_name = from + "ffn.x_k", .convert = flatten};
  for (const char* part : {"key", "value"})
    map.sources[fmt::format("{}ffn.{}.weight", to, part)] = {
        .file_name = fmt::format("{}ffn.{}.weight", from, part)};
}

WeightMap weight_map(const Checkpoint& checkpoint, const Recognition& recognition) {
  if (recognition.layout == "blinkdl") {
    WeightMap map = rwkv_weight_map(checkpoint, recognition);
    for (const char* unused : {"v0", "v1", "v2"})
      map.ignored.insert(fmt::format("blocks.0.att.{}", unused));
    return map;
  }
  WeightMap map;
  map_fla_head(checkpoint, map);
  for (const char* part : {"weight", "bias"}) {
    map.sources[fmt::format("ln_out.{}", part)] = {.file_name = fmt::format("model.norm.{}", part)};
    map.sources[fmt::format("blocks.0.ln0.{}", part)] = {
        .file_name = fmt::format("model.layers.0.pre_norm.{}", part)};
  }
  for (int64_t i = 0; i < count_layers(checkpoint.weights, "model.layers."); ++i)
    map_fla_layer(map, checkpoint.weights, i);
  return map;
}

const ConfigTable kFla = {
    .kind = "fla",
    .model_types = {"rwkv7"},
    .read = {"hidden_size", "num_hidden_layers", "num_heads", "head_dim", "intermediate_size",
             "vocab_size", "norm_eps", "layer_norm_epsilon", "rms_norm_eps", "tie_word_embeddings",
             "decay_low_rank_dim", "gate_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim"},
    .fixed = {{"norm_first", {true}},
              {"norm_bias", {true}},
              {"elementwise_affine", {true}},
              {"hidden_act", {"sqrelu"}},
              {"attn", {}, "a hybrid, which is not supported"}},
    .harmless = {"attn_mode", "hidden_ratio", "value_dim"}};

const ConfigTable& config_table(const Checkpoint&, const Recognition&) {
  return kFla;
}

/// flash-linear-attention gives the heads' norm head_dim times the eps of the others. RWKV-LM
/// trains with 64e-5, whatever the heads' size: its norm_eps, which conversions keep, means that.
void read_eps(const Checkpoint& checkpoint, RwkvConfig& config) {
  constexpr double kTrained = 1e-5;
  const ConfigValues values(checkpoint);
  config.eps = values.eps("norm_eps").value_or(kTrained);
  values.agree_eps("norm_eps", config.eps);
  values.agree("num_heads", config.heads);
  values.agree("head_dim", config.head_size);
  const double by_head = static_cast<double>(config.head_size) * config.eps;
  if (config.eps != kTrained)
    config.ln_x_eps = by_head;
  else if (by_head != config.ln_x_eps)
    config.warnings.push_back(fmt::format(
        "{}: heads of {} with norm_eps {}: their norm takes {}, with which RWKV-LM trains; "
        "flash-linear-attention takes head_dim x norm_eps, {}",
        checkpoint.config_path.string(), config.head_size, config.eps, config.ln_x_eps, by_head));
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
  const WeightMap map = weight_map(checkpoint, recognition);
  RwkvConfig config = read_rwkv_config(checkpoint, map, "blocks.0.att.r_k");
  if (recognition.layout == "fla" || config_has_any(checkpoint, {"norm_eps"}))
    read_eps(checkpoint, config);
  // A layer past the first has all four; a model of one layer has no value mix.
  const std::string att = fmt::format("blocks.{}.att.", config.layers - 1);
  const auto rank = [&](const char* lora) -> int64_t {
    const auto source = map.sources.find(att + lora + "1");
    if (source == map.sources.end())
      return 0;
    return shape_of(checkpoint, source->second.file_name, 2)[recognition.layout == "fla" ? 0 : 1];
  };
  const LowRanks ranks = {
      .decay = rank("w"), .rate = rank("a"), .value = rank("v"), .gate = rank("g")};
  const ConfigValues values(checkpoint);
  values.agree("decay_low_rank_dim", ranks.decay);
  values.agree("a_low_rank_dim", ranks.rate);
  values.agree("gate_low_rank_dim", ranks.gate);
  if (ranks.value > 0)
    values.agree("v_low_rank_dim", ranks.value);
  return std::make_unique<Rwkv7>(config, ranks, true_vocab(checkpoint, config.vocab_rows));
}

// ---- as published ----

constexpr ModelSize kSizes[] = {rwkv_tiny(8), rwkv_size("1.5b", 2048, 24, 8192, 96)};

/// The published 1.5B has ranks 96 (decay, rate), 64 (value) and 256 (gate).
Outline outline_of(const ModelSize& size) {
  const int64_t d = size.d_model;
  Outline outline = rwkv_outline(size, "r_k");
  const std::string last = fmt::format("blocks.{}.att.", size.layers - 1);
  outline.shapes[last + "w1"] = {d, size.rank};
  outline.shapes[last + "a1"] = {d, size.rank};
  outline.shapes[last + "v1"] = {d, size.rank * 2 / 3};
  outline.shapes[last + "g1"] = {d, size.rank * 8 / 3};
  return outline;
}

}  // namespace

const Family rwkv7_family = {.name = "rwkv7",
                             .recognise = recognise,
                             .config_table = config_table,
                             .make = make,
                             .weight_map = weight_map,
                             .make_new = make_new,
                             .new_keys = kNewKeys,
                             .terms = {.decay = DecayForm::PerChannel, .has_erase = true},
                             .widths = {.heads = 32, .key_width = 64, .value_width = 64},
                             .sizes = kSizes,
                             .outline = outline_of};

}  // namespace stuffed
