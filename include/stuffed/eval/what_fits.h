// How many sequences fit the memory side by side.
#pragma once
#include <cstdint>
#include <functional>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// What is fed at a time, as far as memory goes.
struct Feeding {
  int64_t rows = 1;            // sequences side by side
  int64_t segment_tokens = 1;  // of each
  int64_t state_bytes = 0;     // of one sequence, at its largest
  int64_t beside_bytes = 0;    // whatever the rows: the states of a prompt tree
};

/// Bytes that feeding takes beside the weights, by estimate: activations, a block of logits, and the
/// state of each sequence before and after. `dtype` is that of the activations.
int64_t feeding_bytes(const ModelConfig& config, at::ScalarType dtype, const Feeding& feeding);

/// The most rows, at most `most`, that fit `free_bytes` by that estimate; 0 if not one does.
int64_t rows_that_fit(const RecurrentLM& model, Feeding feeding, int64_t free_bytes, int64_t most);

/// The longest segment below the given one, a power of two of at least 16 tokens, that fits with the
/// same rows; 0 if none does.
int64_t segment_that_fits(const RecurrentLM& model, Feeding feeding, int64_t free_bytes);

/// The largest number from 1 to `most` that fits, if what is smaller fits too; 1 if none does. Asks
/// about twice as often as the answer has bits.
int64_t largest_that_fits(int64_t most, const std::function<bool(int64_t)>& fits);

/// --batch-size auto, from 1 to `most`. On a GPU the largest batch that was fed a segment and its
/// losses while a sixteenth of the free memory was kept from it; on the CPU, which refuses no memory
/// but ends the process that takes too much, what by estimate takes half of the free memory at most.
int64_t batch_that_fits(const RecurrentLM& model,
                        const Recurrence& rule,
                        const Feeding& feeding,
                        int64_t most);

}  // namespace stuffed::eval
