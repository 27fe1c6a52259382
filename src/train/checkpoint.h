// What a stopped training run needs to go on to the same bytes.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "stuffed/core/tensor.h"
#include "stuffed/io/json.h"

namespace stuffed::train {

/// Tensors by name; reading writes into the same tensors.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// One safetensors file, replaced atomically: the tensors, and in its metadata the step and the
/// run's configuration. Draws are functions of (seed, step), so the step is also the position in
/// the data and the state of the random numbers.
void save_checkpoint(const std::filesystem::path& path,
                     const NamedTensors& tensors,
                     int64_t step,
                     const io::json& config);

/// Does a training run's checkpoint lie there?
bool is_checkpoint(const std::filesystem::path& path);

/// Fills the tensors; returns the step, 0 if there is no such file.
/// Errors  Usage if it is another configuration's; Input if it is damaged
int64_t load_checkpoint(const std::filesystem::path& path,
                        const NamedTensors& tensors,
                        const io::json& config);

}  // namespace stuffed::train
