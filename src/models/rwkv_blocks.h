// What RWKV-5, RWKV-6 and RWKV-7 share: the residual trunk with its layer norms and token shifts,
// the group norm over heads, and the names of their layouts. Canonical names are BlinkDL's.
#pragma once
#include <string>
#include <vector>

#include "checkpoint.h"
#include "new_weights.h"
#include "stuffed/ops/token_shift.h"

namespace stuffed {

struct LayerNormWeights {
  Tensor weight, bias;  // [D]

  void visit(ParameterVisitor& v, const std::string& name, int64_t width);
  Tensor operator()(const Tensor& x, double eps, at::ScalarType out) const;
};

struct RwkvConfig {
  int64_t d_model, layers, heads, head_size, ffn_width, vocab_rows;
  double eps = 1e-5;  // of the layer norms
  // Training divides the heads' outputs by 8 and normalises with 1e-5; inference skips the
  // division, so eps x 8^2.
  double ln_x_eps = 64e-5;
  std::vector<std::string> warnings = {};
};

/// The trunk. A generation writes time_mix and channel_mix.
class RwkvModel : public RecurrentLM {
 public:
  RwkvModel(const RwkvConfig& config, int64_t vocab);
  void visit(ParameterVisitor& v) override;

 protected:
  virtual void visit_block(ParameterVisitor& v, const std::string& prefix, size_t layer) = 0;
  virtual Tensor time_mix(Where where,
                          const ops::TokenShift& x,
                          LayerState& state,
                          const Recurrence& rule,
                          Pass& pass) const = 0;
  virtual Tensor channel_mix(size_t layer, const ops::TokenShift& x) const = 0;

  Tensor embed(const Tensor& tokens) const override;
  Tensor block(Where where,
               const Tensor& x,
               LayerState& state,
               const Recurrence& rule,
               Pass& pass) const override;
  Tensor final_norm(const Tensor& x) const override;
  LayerState initial_layer_state(int64_t batch) const override;

  /// As RwkvConfig was read: config.json of Hugging Face's layout of this model_type.
  io::json hf_config(std::string_view model_type) const;
  /// Gives every parameter of a new model what `value_of` makes for it.
  void refill(const Refill::ValueOf& value_of);

  Tensor to_heads(const Tensor& x) const { return x.unflatten(-1, {r_.heads, r_.head_size}); }
  /// The heads' outputs [B,T,H,V], normalised head by head: [B,T,H*V]; times silu(gate) if
  /// there is one [B,T,H*V].
  Tensor normalise_heads(const Tensor& y,
                         const LayerNormWeights& ln_x,
                         const Tensor& gate = {}) const;

  RwkvConfig r_;

 private:
  Tensor embedding_;
  LayerNormWeights ln0_, ln_out_;
  std::vector<LayerNormWeights> ln1_, ln2_;
};

/// x [...,in] times weight [in,out], in x's type.
Tensor product(const Tensor& x, const Tensor& weight);

/// The channel mix of RWKV-5 and RWKV-6: sigmoid(receptance) * value(relu(key)^2).
struct GatedChannelMix {
  Tensor share_k, share_r;  // [D] f32
  ops::Linear key, value, receptance;

  Tensor operator()(const ops::TokenShift& x) const;
};

/// "blocks." if the names are BlinkDL's, "rwkv.blocks." if Hugging Face's, else empty.
std::string rwkv_block_prefix(const io::TensorDirectory& weights);

/// BlinkDL's name of a tensor in either naming.
std::string rwkv_canonical(const std::string& name);

/// In flash-linear-attention's names: adds where the head comes from, which is the embedding where
/// the config ties them and the file has one of them alone.
void map_fla_head(const Checkpoint& checkpoint, WeightMap& map);

/// Canonical names from BlinkDL's or Hugging Face's; [1,1,D] vectors flattened; saved initial
/// states ignored.
WeightMap rwkv_weight_map(const Checkpoint& checkpoint, const Recognition& recognition);

/// A canonical tensor as Hugging Face's layout of RWKV-5 and RWKV-6 has it: its name, and vectors
/// over channels as [1,1,D].
std::pair<std::string, Tensor> rwkv_hf_saved(const std::string& name, const Tensor& tensor);

/// Widths of a new RWKV-5 or RWKV-6, of a config in Hugging Face's keys.
/// Errors  Usage for keys that are not its family's, and sizes that do not belong together
RwkvConfig new_rwkv_config(const ConfigValues& values,
                           std::string_view family,
                           std::span<const NewKey> keys);

/// The keys of Hugging Face's configs of RWKV-5 and RWKV-6, of this model_type.
ConfigTable rwkv_hf_table(std::string_view model_type);

/// Widths from shapes, checked against the config if there is one; the config's head_size_divisor.
/// `head_shape` is the tensor that has [H,S].
RwkvConfig read_rwkv_config(const Checkpoint& checkpoint,
                            const WeightMap& map,
                            const std::string& head_shape);

/// A published size of head_size 64, in BlinkDL's vocabulary.
constexpr ModelSize rwkv_size(
    std::string_view name, int64_t d_model, int64_t layers, int64_t mlp_width, int64_t rank = 0) {
  return {.name = name,
          .d_model = d_model,
          .layers = layers,
          .heads = d_model / 64,
          .vocab_rows = 65536,
          .mlp_width = mlp_width,
          .rank = rank};
}

/// The size that runs in milliseconds.
constexpr ModelSize rwkv_tiny(int64_t rank = 0) {
  return {.name = "tiny",
          .d_model = 64,
          .layers = 2,
          .heads = 4,
          .vocab_rows = 256,
          .mlp_width = 128,
          .rank = rank};
}

/// What the outlines of BlinkDL's layouts share; `heads` is the tensor of the first layer's that
/// has [H,S].
Outline rwkv_outline(const ModelSize& size, const std::string& heads);

/// Throws Input for relatives that look alike and are not supported: converted files, RWKV-4,
/// x060a/b/c.
void reject_rwkv_relatives(const Checkpoint& checkpoint);

}  // namespace stuffed
