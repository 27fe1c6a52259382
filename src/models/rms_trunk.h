// The trunk of Mamba-1, Mamba-2 and HGRN-2: an embedding, blocks behind RMS norms, a final norm, and
// a head that may be the embedding.
#pragma once
#include <string>

#include "kernels/decay_scan/decay_scan_terms.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed {

struct RmsTrunkConfig {
  int64_t d_model, layers, padded_vocab;
  int64_t conv_width = 0;  // 0: no short convolution
  bool tied = true, residual_in_f32 = true;
  double eps = 1e-5;
};

/// Canonical tensor names; a layer's begin with `layers`, its number and a dot.
struct RmsTrunkNames {
  const char *embedding, *layers, *final_norm;
};

/// A family writes visit_layer() and block().
class RmsTrunk : public RecurrentLM {
 public:
  /// `conv_channels`: C of the short convolution's state.
  RmsTrunk(const RmsTrunkConfig& config,
           const RmsTrunkNames& names,
           const ScanWidths& widths,
           int64_t conv_channels,
           int64_t vocab);
  void visit(ParameterVisitor& v) override;
  void derive() override;

 protected:
  virtual void visit_layer(ParameterVisitor& v, const std::string& prefix, size_t layer) = 0;
  /// What all layers have in common, behind the embedding.
  virtual void visit_shared(ParameterVisitor&) {}

  Tensor embed(const Tensor& tokens) const override;
  Tensor final_norm(const Tensor& x) const override { return normalise(x, final_norm_); }
  LayerState initial_layer_state(int64_t batch) const override;
  /// RMS norm with this weight [D], in the type of the activations.
  Tensor normalise(const Tensor& x, const Tensor& weight) const;

  Tensor embedding_;

 private:
  RmsTrunkConfig t_;
  RmsTrunkNames names_;
  int64_t conv_channels_;
  Tensor final_norm_;
};

}  // namespace stuffed
