// A recurrent language model: parameters, and one segment forward. Knows no task, and never waits
// for the GPU.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/models/parameters.h"
#include "stuffed/recurrence/recurrence.h"

namespace stuffed {

/// What a model is, as far as tasks and reports need to know. A family keeps its own details to
/// itself.
struct ModelConfig {
  std::string family;        // "mamba2", "rwkv6", ...
  std::string layout;        // whose tensor names: "original", "hf", "fla", "blinkdl", ...
  std::string why;           // the tensors that decided family and layout
  int64_t d_model = 0;       // D
  int64_t layers = 0;        // L
  int64_t heads = 0;         // H
  int64_t key_width = 0;     // K
  int64_t value_width = 0;   // V
  int64_t vocab = 0;         // true vocabulary: ids and logits beyond it are masked
  int64_t padded_vocab = 0;  // rows of the embedding
  int64_t parameters = 0;    // elements, tied ones once
  std::string hash;          // SHA-256 over the weight files and config.json, 64 hex digits
  std::string config_kind;   // whose keys the config has: "hf", "original", "fla"; "" without one
  std::string gated_norm;    // "group" or "whole", where a Mamba-2 of several groups has the choice
  std::vector<std::string> unknown_keys;  // of the config: not known, so not honoured
  std::vector<std::string> warnings;      // what a reader of the results must know of the files
};

struct LmHead {
  ops::Linear linear;  // [padded, D]
  int64_t vocab = 0;   // columns at and beyond it do not exist for loss, sampling or argmax
};

struct Output {
  Tensor hidden;  // [B,T,D] after the final norm; never logits
};

/// What is kept for a backward pass: all that it needs, or each block's inputs alone, from which
/// the block is computed a second time.
enum class Kept { Activations, BlockInputs };

/// What one forward call hands from block to block; not state.
struct Pass {
  Tensor first_value;  // RWKV-7: the first block's value rows [B,T,H,V]
};

class RecurrentLM {
 public:
  virtual ~RecurrentLM() = default;

  /// Consumes tokens [B,T] int64 on the model's device, advances `state`, returns the hidden rows.
  /// Under autograd `kept` says what the backward pass finds.
  Output forward(const Tensor& tokens,
                 State& state,
                 const Recurrence& rule = plain_scan(),
                 Kept kept = Kept::Activations) const;
  State initial_state(int64_t batch) const;

  const ModelConfig& config() const { return config_; }
  const LmHead& head() const { return head_; }
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }  // of weights and activations

  /// The one list of parameters: loading, saving, initialisation, counting and the optimiser all
  /// walk it.
  virtual void visit(ParameterVisitor& visitor) = 0;
  /// Values for the Gate parameters (and any others the family wants) of a new model; called after
  /// the generic initialisation. Throws Unsupported in a family that cannot be trained from scratch
  /// yet.
  virtual void initialise_gates(uint64_t seed);
  /// config.json of the layout this family is saved in.
  virtual io::json save_config() const;
  /// A canonical tensor as that layout has it: its name and shape there.
  virtual std::pair<std::string, Tensor> saved(const std::string& name,
                                               const Tensor& tensor) const {
    return {name, tensor};
  }
  /// After loading or a change of weights: the family's derived tensors. In a model that is trained
  /// what has a gradient is derived where it is used.
  virtual void derive() {}

  /// The taps [C,1,W] of its short convolutions, equally many of each layer, in order. Collected when
  /// it is loaded for inference.
  const std::vector<Tensor>& conv_taps() const { return conv_taps_; }

  int64_t recurrent_elements() const;  // of one sequence's state, recurrence alone
  int64_t state_elements() const;      // with W-1 convolution columns or shift rows

 private:
  Tensor recomputed_block(
      Where where, const Tensor& x, LayerState& layer, const Recurrence& rule, Pass& pass) const;

 protected:
  virtual Tensor embed(const Tensor& tokens) const = 0;  // [B,T] -> [B,T,D]
  virtual Tensor block(Where where,
                       const Tensor& x,
                       LayerState& layer,
                       const Recurrence& rule,
                       Pass& pass) const = 0;
  virtual Tensor final_norm(const Tensor& x) const = 0;
  virtual LayerState initial_layer_state(int64_t batch) const = 0;

  ModelConfig config_;
  LmHead head_;
  std::vector<Tensor> conv_taps_;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kFloat;
  bool is_trained_ = false;
  friend class ModelBuilder;
};

}  // namespace stuffed
