#include "rwkv_blocks.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "kernels/common/matrix_product.h"
#include "stuffed/ops/activations.h"
#include "stuffed/ops/norms.h"

namespace stuffed {

void LayerNormWeights::visit(ParameterVisitor& v, const std::string& name, int64_t width) {
  v.parameter(name + ".weight", weight, {width}, Role::Norm);
  v.parameter(name + ".bias", bias, {width}, Role::Bias);
}

Tensor LayerNormWeights::operator()(const Tensor& x, double eps, at::ScalarType out) const {
  return ops::layer_norm(x, weight, bias, eps, out);
}

RwkvModel::RwkvModel(const RwkvConfig& config, int64_t vocab)
    : r_(config),
      ln1_(static_cast<size_t>(config.layers)),
      ln2_(static_cast<size_t>(config.layers)) {
  config_.d_model = r_.d_model;
  config_.layers = r_.layers;
  config_.heads = r_.heads;
  config_.key_width = config_.value_width = r_.head_size;
  config_.vocab = head_.vocab = vocab;
  config_.padded_vocab = r_.vocab_rows;
  config_.warnings = r_.warnings;
}

void RwkvModel::visit(ParameterVisitor& v) {
  v.parameter("emb.weight", embedding_, {r_.vocab_rows, r_.d_model}, Role::Embedding);
  ln0_.visit(v, "blocks.0.ln0", r_.d_model);
  for (size_t i = 0; i < ln1_.size(); ++i) {
    const std::string prefix = fmt::format("blocks.{}.", i);
    ln1_[i].visit(v, prefix + "ln1", r_.d_model);
    ln2_[i].visit(v, prefix + "ln2", r_.d_model);
    visit_block(v, prefix, i);
  }
  ln_out_.visit(v, "ln_out", r_.d_model);
  v.matrix("head.weight", head_.linear, {r_.vocab_rows, r_.d_model});
}

Tensor RwkvModel::embed(const Tensor& tokens) const {
  return ln0_(at::embedding(embedding_, tokens), r_.eps, at::kFloat);
}

Tensor RwkvModel::block(
    Where where, const Tensor& x, LayerState& state, const Recurrence& rule, Pass& pass) const {
  const auto layer = static_cast<size_t>(where.layer);
  const ops::TokenShift a(ln1_[layer](x, r_.eps, dtype_), state.shift.select(1, 0));
  const Tensor h = x + time_mix(where, a, state, rule, pass);
  const ops::TokenShift b(ln2_[layer](h, r_.eps, dtype_), state.shift.select(1, 1));
  state.shift = at::stack({a.last(), b.last()}, 1);
  return h + channel_mix(layer, b);
}

Tensor RwkvModel::final_norm(const Tensor& x) const {
  return ln_out_(x, r_.eps, dtype_);
}

LayerState RwkvModel::initial_layer_state(int64_t batch) const {
  const auto options = at::TensorOptions().device(device_);
  LayerState state;
  state.recurrent =
      at::zeros({batch, r_.heads, r_.head_size, r_.head_size}, options.dtype(at::kFloat));
  state.shift = at::zeros({batch, 2, r_.d_model}, options.dtype(dtype_));
  return state;
}

Tensor RwkvModel::normalise_heads(const Tensor& y,
                                  const LayerNormWeights& ln_x,
                                  const Tensor& gate) const {
  return ops::group_norm(y.flatten(-2), r_.heads, ln_x.weight, ln_x.bias, r_.ln_x_eps, gate);
}

void RwkvModel::refill(const Refill::ValueOf& value_of) {
  const at::NoGradGuard no_grad;
  Refill refill(value_of, device_);
  visit(refill);
}

io::json RwkvModel::hf_config(std::string_view model_type) const {
  const auto divisor = std::lround(std::sqrt(r_.ln_x_eps / r_.eps));
  return {{"architectures", {"RwkvForCausalLM"}},
          {"model_type", model_type},
          {"hidden_size", r_.d_model},
          {"num_hidden_layers", r_.layers},
          {"attention_hidden_size", r_.heads * r_.head_size},
          {"head_size", r_.head_size},
          {"head_size_divisor", divisor},
          {"intermediate_size", r_.ffn_width},
          {"vocab_size", r_.vocab_rows},
          {"layer_norm_epsilon", r_.eps},
          {"tie_word_embeddings", false},
          {"rescale_every", 0},
          {"pad_token_id", nullptr},
          {"bos_token_id", nullptr},
          {"eos_token_id", nullptr},
          {"dtype", "float32"}};
}

Tensor product(const Tensor& x, const Tensor& weight) {
  return kernels::matrix_product(x, weight.to(x.scalar_type()));
}

Tensor GatedChannelMix::operator()(const ops::TokenShift& x) const {
  const Tensor k = ops::relu_square(ops::linear(x.mix(share_k), key));
  return ops::sigmoid_product(ops::linear(x.mix(share_r), receptance), ops::linear(k, value));
}

}  // namespace stuffed
