// Trains a small byte-level model on one device, from nothing to a checkpoint that the evaluators
// and transformers read.
#pragma once
#include <filesystem>
#include <functional>
#include <string>

#include "stuffed/io/json.h"
#include "stuffed/train/data.h"
#include "stuffed/train/schedule.h"

namespace stuffed::train {

struct TrainConfig {
  std::string family = "mamba2";
  io::json model;                    // config.json of the model to be made; its vocabulary is 256
  std::filesystem::path model_file;  // which that was read from, if it was a file
  DataConfig data;                   // its seed is set from `seed`
  int64_t length = 128;              // tokens in a sequence; each starts from an empty state
  int64_t batch = 32;  // sequences in a step; batch x length is a multiple of the window
  Schedule schedule;
  double weight_decay = 0.1, beta2 = 0.95, clip = 1;
  uint64_t seed = 0;
  std::string dtype = "f32";  // of activations, f32 or bf16; weights and moments are f32
  int64_t log_every = 50, validate_every = 500, checkpoint_every = 500;  // steps
  int64_t validation_rows = 16;                                          // sequences of each source
  int64_t validation_length = 0;  // tokens; 0: the training length
  double save_every = 600;        // seconds between checkpoints, besides those by steps; 0: none
};

struct Progress {
  int64_t step, steps;  // taken, in all
  double loss_nats;     // mean since the last report
  double learning_rate, gradient_norm;
};

/// Trains, or goes on where a stopped run of the same configuration was, to the same bytes. Leaves
/// in `folder`: model.safetensors and config.json (the family's published layout),
/// stuffed_tokenizer.json, train.jsonl (the journal: losses, learning rates, validation) and
/// checkpoint.safetensors. A finished folder is left as it is.
/// Errors  Usage if a value is out of range or the folder holds another configuration's run; Input
///         if the folder holds a model without its journal, or a finished run without its model;
///         Interrupted after a signal, once the checkpoint is written
void train(const TrainConfig& config,
           at::Device device,
           const std::filesystem::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress);

}  // namespace stuffed::train
