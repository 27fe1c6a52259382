#include "stuffed/eval/what_fits.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/memory.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kActivations = 24;   // rows of width D alive at a time; 8 to 23 were measured
constexpr int64_t kLogitRows = 1024;   // of a block of the loss
constexpr int64_t kLeastSegment = 16;  // tokens
constexpr int64_t kKeptOfGpu = 16;     // this part of what is free: blocks do not fit without gaps
constexpr int64_t kKeptOfProcessor = 2;

/// Feeds one segment and takes its losses; false if the memory ran out.
bool can_be_fed(const RecurrentLM& model,
                const Recurrence& rule,
                const Feeding& feeding,
                int64_t kept_bytes) {
  const at::TensorOptions on_device = at::device(model.device());
  try {
    const Tensor kept =
        at::empty({kept_bytes + feeding.beside_bytes + feeding.rows * feeding.state_bytes},
                  on_device.dtype(at::kByte));
    State state = model.initial_state(feeding.rows);
    const Tensor tokens =
        at::zeros({feeding.rows, feeding.segment_tokens}, on_device.dtype(at::kLong));
    const Output out = model.forward(tokens, state, rule);
    ops::linear_cross_entropy(out.hidden, model.head().linear, model.head().vocab, tokens)
        .sum()
        .item<float>();  // waits, so that it has run
    return true;
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error))
      throw;
  }
  return false;
}

}  // namespace

int64_t feeding_bytes(const ModelConfig& config, at::ScalarType dtype, const Feeding& feeding) {
  const auto width = static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t fed = feeding.rows * feeding.segment_tokens;
  const int64_t activations = fed * config.d_model * kActivations * width;
  const int64_t logits = std::min(fed, kLogitRows) * config.padded_vocab * 4;
  return activations + logits + 2 * feeding.rows * feeding.state_bytes + feeding.beside_bytes;
}

int64_t rows_that_fit(const RecurrentLM& model, Feeding feeding, int64_t free_bytes, int64_t most) {
  const auto fits = [&](int64_t rows) {
    feeding.rows = rows;
    return feeding_bytes(model.config(), model.dtype(), feeding) <= free_bytes;
  };
  return fits(1) ? largest_that_fits(most, fits) : 0;
}

int64_t segment_that_fits(const RecurrentLM& model, Feeding feeding, int64_t free_bytes) {
  const int64_t given = feeding.segment_tokens;
  int64_t found = 0;
  for (int64_t tokens = kLeastSegment; tokens < given; tokens *= 2) {
    feeding.segment_tokens = tokens;
    if (feeding_bytes(model.config(), model.dtype(), feeding) <= free_bytes)
      found = tokens;
  }
  return found;
}

int64_t largest_that_fits(int64_t most, const std::function<bool(int64_t)>& fits) {
  int64_t fitting = 1;
  int64_t too_many = most + 1;
  for (int64_t next = most > 1 ? 2 : most + 1; next < too_many; next = std::min(2 * next, most + 1))
    (fits(next) ? fitting : too_many) = next;
  while (too_many - fitting > 1) {
    const int64_t middle = fitting + (too_many - fitting) / 2;
    (fits(middle) ? fitting : too_many) = middle;
  }
  return fitting;
}

int64_t batch_that_fits(const RecurrentLM& model,
                        const Recurrence& rule,
                        const Feeding& feeding,
                        int64_t most) {
  const int64_t free = free_memory_bytes(model.device());
  if (!model.device().is_cuda())
    return std::max<int64_t>(1, rows_that_fit(model, feeding, free / kKeptOfProcessor, most));
  return largest_that_fits(most, [&](int64_t rows) {
    Feeding tried = feeding;
    tried.rows = rows;
    const bool fits = can_be_fed(model, rule, tried, free / kKeptOfGpu);
    release_unused_memory(model.device());
    return fits;
  });
}

}  // namespace stuffed::eval
