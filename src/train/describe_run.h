// Which runs can be, and what decides a run's numbers.
#pragma once
#include "stuffed/io/json.h"
#include "stuffed/models/recurrent_lm.h"
#include "stuffed/train/trainer.h"

namespace stuffed::train {

/// Throws Usage for lengths that do not tile, steps that do not add up, a batch that does not divide
/// over `ranks` processes, and the like.
void check_train_config(const TrainConfig& config, int64_t ranks);

/// For the journal's header and the checkpoint. What a run of an older build could not have is
/// named only where it is not as it was then: such a run is gone on with.
io::json describe_run(const TrainConfig& config,
                      const TrainingData& data,
                      const RecurrentLM& model,
                      at::Device device);

}  // namespace stuffed::train
