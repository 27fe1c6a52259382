#include "stuffed/models/recurrent_lm.h"

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed {

Output RecurrentLM::forward(const Tensor& tokens, State& state, const Recurrence& rule) const {
  Tensor x = embed(tokens);
  Pass pass;
  for (size_t layer = 0; layer < state.layers.size(); ++layer) {
    if (device_.is_cpu())
      leave_if_overdue();  // a segment of a large model takes minutes
    x = block({static_cast<int>(layer), state.position}, x, state.layers[layer], rule, pass);
  }
  state.position += tokens.size(1);
  return {final_norm(x)};
}

State RecurrentLM::initial_state(int64_t batch) const {
  State state;
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    state.layers.push_back(initial_layer_state(batch));
  return state;
}

void RecurrentLM::initialise_gates(uint64_t) {
  fail(Error::Kind::Unsupported, "{} models cannot be trained from scratch; mamba2 can",
       config_.family);
}

io::json RecurrentLM::save_config() const {
  fail(Error::Kind::Unsupported, "{} models cannot be saved; mamba2 can", config_.family);
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
