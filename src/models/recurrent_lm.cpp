#include "stuffed/models/recurrent_lm.h"

#include <ATen/ATen.h>

#include "kernels/common/recompute.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed {

Output RecurrentLM::forward(const Tensor& tokens,
                            State& state,
                            const Recurrence& rule,
                            Kept kept) const {
  Tensor x = embed(tokens);
  Pass pass;
  for (size_t layer = 0; layer < state.layers.size(); ++layer) {
    if (device_.is_cpu())
      leave_if_overdue();  // a segment of a large model takes minutes
    const Where where = {static_cast<int>(layer), state.position};
    x = kept == Kept::BlockInputs ? recomputed_block(where, x, state.layers[layer], rule, pass)
                                  : block(where, x, state.layers[layer], rule, pass);
  }
  state.position += tokens.size(1);
  return {final_norm(x)};
}

Tensor RecurrentLM::recomputed_block(
    Where where, const Tensor& x, LayerState& layer, const Recurrence& rule, Pass& pass) const {
  const bool gives_value = !pass.first_value.defined();
  const auto function = [=, this, &rule](const std::vector<Tensor>& in) {
    LayerState own{in[1], in[2], in[3], {}};
    Pass here{in[4]};
    std::vector<Tensor> out = {block(where, in[0], own, rule, here)};
    for (const Tensor& part : {own.recurrent, own.conv, own.shift})
      if (part.defined())
        out.push_back(part);
    if (gives_value && here.first_value.defined())
      out.push_back(here.first_value);
    return out;
  };
  const std::vector<Tensor> out = kernels::recompute_with_leaves(
      function, {x, layer.recurrent, layer.conv, layer.shift, pass.first_value});
  size_t next = 1;
  for (Tensor* part : {&layer.recurrent, &layer.conv, &layer.shift})
    if (part->defined())
      *part = out[next++];
  if (next < out.size())
    pass.first_value = out[next];
  return out[0];
}

State RecurrentLM::initial_state(int64_t batch) const {
  State state;
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    state.layers.push_back(initial_layer_state(batch));
  return state;
}

void RecurrentLM::initialise_gates(uint64_t) {
  fail(Error::Kind::Unsupported, "{} models cannot be trained from scratch", config_.family);
}

io::json RecurrentLM::save_config() const {
  fail(Error::Kind::Unsupported, "{} models cannot be saved", config_.family);
}

int64_t RecurrentLM::recurrent_elements() const {
  return config_.layers * initial_layer_state(1).recurrent.numel();
}

int64_t RecurrentLM::state_elements() const {
  const LayerState layer = initial_layer_state(1);
  int64_t elements = layer.recurrent.numel();
  for (const Tensor* tensor : {&layer.conv, &layer.shift})
    if (tensor->defined())
      elements += tensor->numel();
  return config_.layers * elements;
}

}  // namespace stuffed
