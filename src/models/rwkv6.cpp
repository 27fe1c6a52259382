// RWKV-6 "Finch" (arXiv:2404.05892) from BlinkDL's, Hugging Face's and flash-linear-attention's
// layouts: the decay and the five token-shift mixes depend on the data through small low-rank
// products.
#include <array>

#include <ATen/ATen.h>

#include "rwkv_beginning.h"
#include "rwkv_blocks.h"
#include "stuffed/core/error.h"

namespace stuffed {

namespace {

constexpr std::array kMixes = {"w", "k", "v", "r",
                               "g"};  // order of the slices in time_maa_w1, time_maa_w2

struct Rwkv6Layer {
  Tensor share_x;               // [D]
  std::array<Tensor, 5> share;  // [D], by kMixes; as elsewhere, the previous token's weight
  Tensor mix_in;                // [D, 5*R] ([in, out])
  Tensor mix_out;               // [5, R, D]
  Tensor decay;                 // [A] f32
  Tensor decay_in, decay_out;   // [D, Rd], [Rd, A]
  Tensor bonus;                 // [H,S]
  ops::Linear receptance, key, value, gate, output;
  LayerNormWeights ln_x;
  GatedChannelMix ffn;
};

struct LowRank {
  int64_t mix, decay;
};

class Rwkv6 : public RwkvModel {
 public:
  Rwkv6(const RwkvConfig& config, LowRank rank, int64_t vocab)
      : RwkvModel(config, vocab), rank_(rank), layers_(static_cast<size_t>(config.layers)) {}

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override { return hf_config("rwkv6"); }
  std::pair<std::string, Tensor> saved(const std::string& name,
                                       const Tensor& tensor) const override {
    return rwkv_hf_saved(name, tensor);
  }

 protected:
  void visit_block(ParameterVisitor& v, const std::string& prefix, size_t i) override {
    Rwkv6Layer& layer = layers_[i];
    const int64_t d = r_.d_model, a = r_.heads * r_.head_size;
    const std::string att = prefix + "att.", ffn = prefix + "ffn.";
    v.parameter(att + "time_maa_x", layer.share_x, {d}, Role::Gate);
    for (size_t m = 0; m < kMixes.size(); ++m)
      v.parameter(att + "time_maa_" + kMixes[m], layer.share[m], {d}, Role::Gate);
    v.parameter(att + "time_maa_w1", layer.mix_in, {d, 5 * rank_.mix}, Role::Matrix);
    v.parameter(att + "time_maa_w2", layer.mix_out, {5, rank_.mix, d}, Role::Matrix);
    v.parameter(att + "time_decay", layer.decay, {a}, Role::Gate);
    v.parameter(att + "time_decay_w1", layer.decay_in, {d, rank_.decay}, Role::Matrix);
    v.parameter(att + "time_decay_w2", layer.decay_out, {rank_.decay, a}, Role::Matrix);
    v.parameter(att + "time_faaaa", layer.bonus, {r_.heads, r_.head_size}, Role::Gate);
    v.matrix(att + "receptance.weight", layer.receptance, {a, d});
    v.matrix(att + "key.weight", layer.key, {a, d});
    v.matrix(att + "value.weight", layer.value, {a, d});
    v.matrix(att + "gate.weight", layer.gate, {a, d});
    v.matrix(att + "output.weight", layer.output, {d, a});
    layer.ln_x.visit(v, att + "ln_x", a);
    v.parameter(ffn + "time_maa_k", layer.ffn.share_k, {d}, Role::Gate);
    v.parameter(ffn + "time_maa_r", layer.ffn.share_r, {d}, Role::Gate);
    v.matrix(ffn + "key.weight", layer.ffn.key, {r_.ffn_width, d});
    v.matrix(ffn + "value.weight", layer.ffn.value, {d, r_.ffn_width});
    v.matrix(ffn + "receptance.weight", layer.ffn.receptance, {d, d});
  }

  Tensor time_mix(Where where,
                  const ops::TokenShift& x,
                  LayerState& state,
                  const Recurrence& rule,
                  Pass&) const override {
    const Rwkv6Layer& layer = layers_[static_cast<size_t>(where.layer)];
    const Tensor low =
        at::tanh(product(x.mix(layer.share_x), layer.mix_in)).unflatten(-1, {5, rank_.mix});
    const Tensor factors = layer.mix_out.to(low.scalar_type());
    const ops::LowRankMixes mixed(x, layer.share, low, factors);
    // The sum with the base in f32: in bf16 it would carry a relative error of 2^-8 into
    // exp(-exp(.)).
    const Tensor omega = product(at::tanh(product(mixed(0), layer.decay_in)), layer.decay_out);
    const ScanInputs in = {.q = to_heads(ops::linear(mixed(3), layer.receptance)),
                           .k = to_heads(ops::linear(mixed(1), layer.key)),
                           .v = to_heads(ops::linear(mixed(2), layer.value)),
                           .gate = RawGate{.kind = GateKind::NegativeExp,
                                           .raw = to_heads(omega),
                                           .base = to_heads(layer.decay)},
                           .bonus = layer.bonus};
    const Tensor gate = ops::linear(mixed(4), layer.gate);
    return ops::linear(normalise_heads(rule.advance(where, in, state), layer.ln_x, gate),
                       layer.output);
  }

  Tensor channel_mix(size_t layer, const ops::TokenShift& x) const override {
    return layers_[layer].ffn(x);
  }

 private:
  LowRank rank_;
  std::vector<Rwkv6Layer> layers_;
};

void Rwkv6::initialise_gates(uint64_t seed) {
  refill([&](const std::string& name, const std::vector<int64_t>& shape, Role role) {
    return rwkv_new_matrix(seed, name, shape, role, r_.layers);
  });
  const int64_t width = r_.heads * r_.head_size;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Rwkv6Layer& layer = layers_[i];
    const RwkvDepth depth(static_cast<int64_t>(i), r_.layers);
    const auto share = [&](double power, double less = 0) {
      return (1 - rwkv_ramp(r_.d_model, power * depth.falling) - less).to(device_);
    };
    layer.share_x = share(1);
    layer.share = {share(1), share(1), share(1, 0.3 * depth.rising), share(0.5), share(0.5)};
    layer.decay = rwkv_new_decay(width, depth).to(device_);
    layer.bonus = rwkv_new_bonus(width, depth).view({r_.heads, -1}).to(device_);
    layer.ffn.share_k = share(1);
    layer.ffn.share_r = share(1);
  }
}

// ---- a new one ----

constexpr NewKey kNewKeys[] = {{"hidden_size"},
                               {"num_hidden_layers"},
                               {"head_size", "64"},
                               {"attention_hidden_size", "hidden_size"},
                               {"intermediate_size", "3.5 x hidden_size, down to a multiple of 32"},
                               {"head_size_divisor", "8"},
                               {"proj_low_rank_dim", "32; 64 from a hidden_size of 4096 on"},
                               {"gate_low_rank_dim", "64; 128 from a hidden_size of 4096 on"},
                               {"vocab_size", "the tokenizer's"}};

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  const RwkvConfig r = new_rwkv_config(values, "rwkv6", kNewKeys);
  const int64_t doubling = r.d_model >= 4096 ? 2 : 1;
  const LowRank rank = {.mix = new_size(values, "proj_low_rank_dim", 32 * doubling),
                        .decay = new_size(values, "gate_low_rank_dim", 64 * doubling)};
  return std::make_unique<Rwkv6>(r, rank, r.vocab_rows);
}

// ---- from a checkpoint ----

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  const auto& weights = checkpoint.weights;
  if (const auto* name = find_name(weights, "attn.x_proj.0.mu"))
    return Recognition{
        .layout = "fla",
        .why = fmt::format("'{}' says RWKV-6 in flash-linear-attention's names", *name)};
  reject_rwkv_relatives(checkpoint);
  const std::string prefix = rwkv_block_prefix(weights);
  const auto* name = find_name(weights, "time_maa_w1");
  if (prefix.empty() || !name)
    return std::nullopt;
  const bool blink = prefix == "blocks.";
  return Recognition{.layout = blink ? "blinkdl" : "hf",
                     .why = fmt::format("'{}' says RWKV-6 in {} names", *name,
                                        blink ? "BlinkDL's" : "Hugging Face's")};
}

/// flash-linear-attention orders the slices r,w,k,v,g; slice j of kMixes is its slice kFlaSlice[j].
constexpr std::array<int64_t, 5> kFlaSlice = {1, 2, 3, 0, 4};

std::vector<Tensor> reordered(const std::vector<Tensor>& fla) {
  TORCH_CHECK(fla.size() == kFlaSlice.size(), "a chunk for each mix");  // a misshapen tensor
  std::vector<Tensor> ours;
  for (const int64_t slice : kFlaSlice)
    ours.push_back(fla[static_cast<size_t>(slice)]);
  return ours;
}

void map_fla_attention(WeightMap& map, const std::string& from, const std::string& to) {
  const auto transpose = [](const Tensor& w) { return w.t(); };
  map.sources[to + "time_maa_x"] = {.file_name = from + "x_proj.0.mu"};
  map.sources[to + "time_maa_w1"] = {
      .file_name = from + "x_proj.0.linear.weight", .convert = [](const Tensor& w) {
        return at::cat(reordered(w.chunk(5, 0))).t();  // [5R,D] -> [D,5R]
      }};
  map.sources[to + "time_maa_w2"] = {
      .file_name = from + "x_proj.2.weight", .convert = [](const Tensor& w) {
        return at::stack(reordered(w.chunk(5, 1))).transpose(1, 2);  // [D,5R] -> [5,R,D]
      }};
  for (size_t m = 0; m < kMixes.size(); ++m)
    map.sources[to + "time_maa_" + kMixes[m]] = {
        .file_name = from + "x_bias",
        .convert = [m](const Tensor& rows) { return rows[kFlaSlice[m]]; }};
  map.sources[to + "time_decay_w1"] = {.file_name = from + "w_proj.linear.lora.0.weight",
                                       .convert = transpose};
  map.sources[to + "time_decay_w2"] = {.file_name = from + "w_proj.linear.lora.2.weight",
                                       .convert = transpose};
  map.sources[to + "time_decay"] = {.file_name = from + "w_proj.linear.lora.2.bias"};
  map.sources[to + "time_faaaa"] = {.file_name = from + "bonus"};
  for (const auto& [ours, theirs] : {std::pair{"receptance", "r_proj.linear"},
                                     {"key", "k_proj.linear"},
                                     {"value", "v_proj.linear"},
                                     {"gate", "g_proj.linear"},
                                     {"output", "o_proj"},
                                     {"ln_x", "g_norm"}})
    map.sources[fmt::format("{}{}.weight", to, ours)] = {
        .file_name = fmt::format("{}{}.weight", from, theirs)};
  map.sources[to + "ln_x.bias"] = {.file_name = from + "g_norm.bias"};
}

WeightMap fla_weight_map(const Checkpoint& checkpoint) {
  WeightMap map;
  const auto plain = [&](const std::string& ours, const std::string& theirs) {
    map.sources[ours] = {.file_name = theirs};
  };
  const auto norm = [&](const std::string& ours, const std::string& theirs) {
    plain(ours + ".weight", theirs + ".weight");
    plain(ours + ".bias", theirs + ".bias");
  };
  map_fla_head(checkpoint, map);
  norm("ln_out", "model.norm");
  norm("blocks.0.ln0", "model.layers.0.pre_norm");
  for (int64_t i = 0; i < count_layers(checkpoint.weights, "model.layers."); ++i) {
    const std::string from = fmt::format("model.layers.{}.", i), to = fmt::format("blocks.{}.", i);
    norm(to + "ln1", from + "attn_norm");
    norm(to + "ln2", from + "ffn_norm");
    map_fla_attention(map, from + "attn.", to + "att.");
    plain(to + "ffn.time_maa_k", from + "ffn.key.mu");
    plain(to + "ffn.time_maa_r", from + "ffn.receptance.mu");
    plain(to + "ffn.key.weight", from + "ffn.key.linear.weight");
    plain(to + "ffn.value.weight", from + "ffn.value.weight");
    plain(to + "ffn.receptance.weight", from + "ffn.receptance.linear.weight");
  }
  return map;
}

WeightMap weight_map(const Checkpoint& checkpoint, const Recognition& recognition) {
  return recognition.layout == "fla" ? fla_weight_map(checkpoint)
                                     : rwkv_weight_map(checkpoint, recognition);
}

const ConfigTable kFla = {
    .kind = "fla",
    .model_types = {"rwkv6"},
    .read = {"hidden_size", "num_hidden_layers", "num_heads", "intermediate_size", "vocab_size",
             "expand_k", "expand_v", "proj_low_rank_dim", "gate_low_rank_dim",
             "tie_word_embeddings"},
    // Upstream's code takes norm_eps for the heads' norm too, which was trained with 64e-5: only
    // the published value is known to mean that.
    .fixed = {{"norm_eps", {1e-5}, "what the heads' norm would take is not known"},
              {"layer_norm_epsilon", {1e-5}},
              {"norm_first", {true}},
              {"norm_bias", {true}},
              {"elementwise_affine", {true}},
              {"hidden_act", {"sqrelu"}},
              {"attn", {}, "a hybrid, which is not supported"}},
    .harmless = {"attn_mode", "hidden_ratio"}};

/// Whose config it is, its own keys say; where they do not, the tensors' names.
const ConfigTable& config_table(const Checkpoint& checkpoint, const Recognition& recognition) {
  static const ConfigTable hf = rwkv_hf_table("rwkv6");
  if (config_has_any(checkpoint, {"norm_eps", "norm_first", "expand_k", "proj_low_rank_dim"}))
    return kFla;
  if (config_has_any(checkpoint, {"attention_hidden_size", "head_size", "rescale_every"}))
    return hf;
  return recognition.layout == "fla" ? kFla : hf;
}

/// What flash-linear-attention's config says of shapes, by its own names: its `gate_low_rank_dim`
/// is the decay's.
void check_fla_shapes(const ConfigValues& values, const RwkvConfig& config, LowRank rank) {
  values.agree("num_heads", config.heads);
  values.agree("proj_low_rank_dim", rank.mix);
  values.agree("gate_low_rank_dim", rank.decay);
  const auto attention = static_cast<double>(config.heads * config.head_size);
  for (const char* key : {"expand_k", "expand_v"}) {
    const double share = values.number(key).value_or(1);
    values.check(share * static_cast<double>(config.d_model) == attention,
                 "{} is {}, but the tensors say {} channels of keys and values for a width of {}",
                 key, share, attention, config.d_model);
  }
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
  const WeightMap map = weight_map(checkpoint, recognition);
  const RwkvConfig config = read_rwkv_config(checkpoint, map, "blocks.0.att.time_faaaa");
  const ConfigValues values(checkpoint);
  values.agree_eps("a fixed one", config.eps);
  const bool fla = recognition.layout == "fla";
  const auto size = [&](const std::string& canonical, size_t axis) {
    const auto source = map.sources.find(canonical);
    return shape_of(checkpoint, source == map.sources.end() ? canonical : source->second.file_name,
                    2)[axis];
  };
  const LowRank rank = {.mix = size("blocks.0.att.time_maa_w1", fla ? 0 : 1) / 5,
                        .decay = size("blocks.0.att.time_decay_w1", fla ? 0 : 1)};
  if (fla)
    check_fla_shapes(values, config, rank);
  return std::make_unique<Rwkv6>(config, rank, true_vocab(checkpoint, config.vocab_rows));
}

// ---- as published ----

constexpr ModelSize kSizes[] = {rwkv_tiny(8), rwkv_size("1.6b", 2048, 24, 7168, 32),
                                rwkv_size("3b", 2560, 32, 8960, 32),
                                rwkv_size("7b", 4096, 32, 14336, 64)};

Outline outline_of(const ModelSize& size) {
  const int64_t d = size.d_model;
  const std::string att = "blocks.0.att.";
  Outline outline = rwkv_outline(size, "time_faaaa");
  outline.shapes[att + "gate.weight"] = {d, d};
  outline.shapes[att + "time_decay"] = {d};
  outline.shapes[att + "time_maa_w1"] = {d, 5 * size.rank};
  outline.shapes[att + "time_decay_w1"] = {d, 2 * size.rank};
  return outline;
}

}  // namespace

const Family rwkv6_family = {
    .name = "rwkv6",
    .recognise = recognise,
    .config_table = config_table,
    .make = make,
    .weight_map = weight_map,
    .make_new = make_new,
    .new_keys = kNewKeys,
    .terms = {.decay = DecayForm::PerChannel, .has_bonus = true, .gate = GateKind::NegativeExp},
    .widths = {.heads = 32, .key_width = 64, .value_width = 64},
    .sizes = kSizes,
    .outline = outline_of};

}  // namespace stuffed
