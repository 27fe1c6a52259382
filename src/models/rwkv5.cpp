// RWKV-5.2 "Eagle" (arXiv:2404.05892) from BlinkDL's and Hugging Face's layouts: a constant decay
// per key channel, and a bonus for the current token.
#include <ATen/ATen.h>

#include "rwkv_beginning.h"
#include "rwkv_blocks.h"
#include "stuffed/core/error.h"

namespace stuffed {

namespace {

struct Rwkv5Layer {
  Tensor share_k, share_v, share_r, share_g;  // [D]: weight of the *current* token
  Tensor decay, bonus;                        // [H,S]
  Tensor log_decay;                           // [H,S], derived for inference, nats
  ops::Linear receptance, key, value, gate, output;
  LayerNormWeights ln_x;
  GatedChannelMix ffn;
};

class Rwkv5 : public RwkvModel {
 public:
  Rwkv5(const RwkvConfig& config, int64_t vocab)
      : RwkvModel(config, vocab), layers_(static_cast<size_t>(config.layers)) {}

 protected:
  void visit_block(ParameterVisitor& v, const std::string& prefix, size_t i) override {
    Rwkv5Layer& layer = layers_[i];
    const int64_t d = r_.d_model, a = r_.heads * r_.head_size;
    const std::string att = prefix + "att.", ffn = prefix + "ffn.";
    v.parameter(att + "time_mix_k", layer.share_k, {d}, Role::Gate);
    v.parameter(att + "time_mix_v", layer.share_v, {d}, Role::Gate);
    v.parameter(att + "time_mix_r", layer.share_r, {d}, Role::Gate);
    v.parameter(att + "time_mix_g", layer.share_g, {d}, Role::Gate);
    v.parameter(att + "time_decay", layer.decay, {r_.heads, r_.head_size}, Role::Gate);
    v.parameter(att + "time_faaaa", layer.bonus, {r_.heads, r_.head_size}, Role::Gate);
    v.matrix(att + "receptance.weight", layer.receptance, {a, d});
    v.matrix(att + "key.weight", layer.key, {a, d});
    v.matrix(att + "value.weight", layer.value, {a, d});
    v.matrix(att + "gate.weight", layer.gate, {a, d});
    v.matrix(att + "output.weight", layer.output, {d, a});
    layer.ln_x.visit(v, att + "ln_x", a);
    v.parameter(ffn + "time_mix_k", layer.ffn.share_k, {d}, Role::Gate);
    v.parameter(ffn + "time_mix_r", layer.ffn.share_r, {d}, Role::Gate);
    v.matrix(ffn + "key.weight", layer.ffn.key, {r_.ffn_width, d});
    v.matrix(ffn + "value.weight", layer.ffn.value, {d, r_.ffn_width});
    v.matrix(ffn + "receptance.weight", layer.ffn.receptance, {d, d});
  }

  void initialise_gates(uint64_t seed) override;
  io::json save_config() const override { return hf_config("rwkv5"); }
  std::pair<std::string, Tensor> saved(const std::string& name,
                                       const Tensor& tensor) const override {
    return rwkv_hf_saved(name, tensor);
  }

  void derive() override {
    if (is_trained_)
      return;
    // From here on every share is the previous token's, as in the later generations.
    for (Rwkv5Layer& layer : layers_) {
      layer.log_decay = -layer.decay.exp();
      for (Tensor* share : {&layer.share_k, &layer.share_v, &layer.share_r, &layer.share_g,
                            &layer.ffn.share_k, &layer.ffn.share_r})
        *share = 1 - *share;
    }
  }

  Tensor time_mix(Where where,
                  const ops::TokenShift& x,
                  LayerState& state,
                  const Recurrence& rule,
                  Pass&) const override {
    const Rwkv5Layer& layer = layers_[static_cast<size_t>(where.layer)];
    const auto mixed = [&](const Tensor& share, const ops::Linear& weight) {
      return ops::linear(x.mix(of_previous(share)), weight);
    };
    const Tensor v = to_heads(mixed(layer.share_v, layer.value));
    const Tensor log_decay = is_trained_ ? -layer.decay.exp() : layer.log_decay;
    const ScanInputs in = {.q = to_heads(mixed(layer.share_r, layer.receptance)),
                           .k = to_heads(mixed(layer.share_k, layer.key)),
                           .v = v,
                           .log_decay = log_decay.expand({v.size(0), v.size(1), -1, -1}),
                           .bonus = layer.bonus};
    const Tensor gate = mixed(layer.share_g, layer.gate);
    return ops::linear(normalise_heads(rule.advance(where, in, state), layer.ln_x, gate),
                       layer.output);
  }

  Tensor channel_mix(size_t layer, const ops::TokenShift& x) const override {
    GatedChannelMix mix = layers_[layer].ffn;
    mix.share_k = of_previous(mix.share_k);
    mix.share_r = of_previous(mix.share_r);
    return mix(x);
  }

 private:
  /// The previous token's share, which derive() has made for inference.
  Tensor of_previous(const Tensor& share) const { return is_trained_ ? 1 - share : share; }

  std::vector<Rwkv5Layer> layers_;
};

void Rwkv5::initialise_gates(uint64_t seed) {
  refill([&](const std::string& name, const std::vector<int64_t>& shape, Role role) {
    return rwkv_new_matrix(seed, name, shape, role, r_.layers);
  });
  const int64_t width = r_.heads * r_.head_size;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Rwkv5Layer& layer = layers_[i];
    const RwkvDepth depth(static_cast<int64_t>(i), r_.layers);
    const auto share = [&](double power, double more = 0) {
      return (rwkv_ramp(r_.d_model, power * depth.falling) + more).to(device_);
    };
    layer.share_k = share(1);
    layer.share_v = share(1, 0.3 * depth.rising);
    layer.share_r = share(0.5);
    layer.share_g = share(0.5);
    layer.decay = rwkv_new_decay(width, depth).view({r_.heads, -1}).to(device_);
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
                               {"vocab_size", "the tokenizer's"}};

std::unique_ptr<RecurrentLM> make_new(const io::json& config) {
  const ConfigValues values(config, "the new model's config", Error::Kind::Usage);
  const RwkvConfig r = new_rwkv_config(values, "rwkv5", kNewKeys);
  return std::make_unique<Rwkv5>(r, r.vocab_rows);
}

// ---- from a checkpoint ----

std::optional<Recognition> recognise(const Checkpoint& checkpoint) {
  reject_rwkv_relatives(checkpoint);
  const auto& weights = checkpoint.weights;
  if (const auto* name = find_name(weights, "attention.time_mix_gate"))
    return Recognition{.layout = "hf",
                       .why = fmt::format("'{}' says RWKV-5.2 in Hugging Face's names", *name)};
  const auto* decay = find_name(weights, "blocks.0.att.time_decay");
  if (!decay || find_name(weights, "time_maa_") || !find_name(weights, "att.ln_x.weight"))
    return std::nullopt;
  const auto& shape = weights.entries().at(*decay).shape;
  const auto* gate = find_name(weights, "att.time_mix_g");
  check(gate && shape.size() == 2 && shape[1] > 1, Error::Kind::Input,
        "{}: '{}' has shape [{}]{}: RWKV-5.0 or 5.1, with one decay per head, which are not "
        "supported; RWKV-5.2 is",
        weights.path().string(), *decay, fmt::join(shape, ", "),
        gate ? "" : " and there is no gate");
  return Recognition{
      .layout = "blinkdl",
      .why = fmt::format("'{}' and a 2-D '{}' say RWKV-5.2 in BlinkDL's names", *gate, *decay)};
}

const ConfigTable& config_table(const Checkpoint&, const Recognition&) {
  static const ConfigTable table = rwkv_hf_table("rwkv5");
  return table;
}

std::unique_ptr<RecurrentLM> make(const Checkpoint& checkpoint, const Recognition& recognition) {
  const RwkvConfig config = read_rwkv_config(checkpoint, rwkv_weight_map(checkpoint, recognition),
                                             "blocks.0.att.time_faaaa");
  ConfigValues(checkpoint).agree_eps("a fixed one", config.eps);
  return std::make_unique<Rwkv5>(config, true_vocab(checkpoint, config.vocab_rows));
}

// ---- as published ----

constexpr ModelSize kSizes[] = {rwkv_tiny(), rwkv_size("1.5b", 2048, 24, 7168),
                                rwkv_size("3b", 2560, 32, 8960), rwkv_size("7b", 4096, 32, 14336)};

Outline outline_of(const ModelSize& size) {
  const int64_t d = size.d_model;
  Outline outline = rwkv_outline(size, "time_faaaa");
  outline.shapes["blocks.0.att.gate.weight"] = {d, d};
  outline.shapes["blocks.0.att.time_decay"] = {size.heads, d / size.heads};
  outline.shapes["blocks.0.att.time_mix_g"] = {d};
  return outline;
}

}  // namespace

const Family rwkv5_family = {.name = "rwkv5",
                             .recognise = recognise,
                             .config_table = config_table,
                             .make = make,
                             .weight_map = rwkv_weight_map,
                             .make_new = make_new,
                             .new_keys = kNewKeys,
                             .terms = {.decay = DecayForm::Constant, .has_bonus = true},
                             .widths = {.heads = 32, .key_width = 64, .value_width = 64},
                             .sizes = kSizes,
                             .outline = outline_of};

}  // namespace stuffed
