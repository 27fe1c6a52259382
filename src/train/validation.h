// How the loss of a model lies by position, while it is being trained.
#pragma once
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::train {

/// Losses of sequences that start from an empty state. tokens [rows, length+1] on the model's
/// device; [rows, length] f64 on the CPU.
Tensor validation_nll(const RecurrentLM& model, const Recurrence& rule, const Tensor& tokens);

/// What a validation record says of losses [rows, length]: their means within the training length
/// and beyond it, and by position, in stretches that double.
io::json validation_fields(const Tensor& nll, int64_t train_length);

/// Where the stretches end, [64, 128, 256, ..., length].
std::vector<int64_t> position_ends(int64_t length);

/// Whether every loss of such fields is finite.
bool is_finite(const io::json& fields);

}  // namespace stuffed::train
