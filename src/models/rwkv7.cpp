// RWKV-7 "Goose" (arXiv:2503.14456) from BlinkDL's and flash-linear-attention's layouts: a delta
// rule, which erases along a normalised key before it writes.
#include <array>

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"
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
    return kernels::matrix_product(kernels::matrix_product(input, map.in), map.out);
  };
  const Tensor value_input = mixed(kV);
  const Tensor r = ops::linear(mixed(kR), layer.receptance);
  DeltaRuleStreams streams{
      .query = r,
      .key = ops::linear(mixed(kK), layer.key),
      .value = ops::linear(value_input, layer.value),
      .decay = kernels::matrix_product(at::tanh(kernels::matrix_product(mixed(kW), layer.decay.in)),
                                       layer.decay.out),
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
  const Tensor gate = kernels::matrix_product(
      ops::sigmoid(kernels::matrix_product(mixed(kG), layer.gate.in)), layer.gate.out);
  return ops::linear(ops::delta_rule_output(y, gates.value, gates.strength, gate, layer.ln_x.weight,
                                            layer.ln_x.bias, r_.ln_x_eps),
                     layer.output);
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
             "vocab_size", "norm_eps", "layer_norm_epsilon", "rms_norm_eps", "tie_word_embeddings"},
    .fixed = {{"norm_first", {true}},
              {"norm_bias", {true}},
              {"elementwise_affine", {true}},
              {"hidden_act", {"sqrelu"}},
              {"attn", {}, "a hybrid, which is not supported"}},
    .harmless = {"attn_mode", "hidden_ratio", "value_dim", "decay_low_rank_dim",
                 "gate_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim"}};

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
                             .terms = {.decay = DecayForm::PerChannel, .has_erase = true},
                             .widths = {.heads = 32, .key_width = 64, .value_width = 64},
                             .sizes = kSizes,
                             .outline = outline_of};

}  // namespace stuffed
