#include "stuffed/eval/state_bytes.h"

#include <ATen/ATen.h>

#include "stuffed/recurrence/window.h"

namespace stuffed::eval {

int64_t state_bytes(const RecurrentLM& model,
                    const Recurrence& rule,
                    int64_t window,
                    int64_t tokens) {
  State state = model.initial_state(1);
  int64_t bytes = state.bytes();
  model.forward(at::zeros({1, 1}, at::TensorOptions(at::kLong).device(model.device())), state,
                rule);
  for (const LayerState& layer : state.layers)
    bytes += extra_bytes(layer, window, tokens);
  return bytes;
}

}  // namespace stuffed::eval
