#include "stuffed/models/one_token.h"

#include <ATen/ATen.h>

namespace stuffed {

void feed_one_token(const RecurrentLM& model, const Recurrence& rule) {
  State state = model.initial_state(1);
  model.forward(at::zeros({1, 1}, at::TensorOptions(at::kLong).device(model.device())), state,
                rule);
}

}  // namespace stuffed
