// Trains a recurrent language model, on one device or by several processes with a device each, from
// nothing or from a checkpoint, to a model that the evaluators and its family's published code read.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/train/data.h"
#include "stuffed/train/ranks.h"
#include "stuffed/train/schedule.h"

namespace stuffed::train {

/// What the first segment of a window starts from (arXiv:2507.02782).
enum class InitialState {
  Empty,
  Passed,       // the state that the window before left in the same row, however unrelated
  Noise,        // normal in every element of the recurrent state
  FittedNoise,  // with the mean and deviation of each head's state that the window before left
};

struct TrainConfig {
  std::string family = "mamba2";
  io::json model;                         // config.json of the model to be made
  std::filesystem::path model_file;       // which that was read from, if it was a file
  std::filesystem::path init_from;        // a checkpoint to begin with instead; empty: none
  std::optional<std::string> gated_norm;  // of that checkpoint, as Reading has it
  DataConfig data;                        // its seed is set from `seed`
  int64_t length = 128;                   // tokens in a sequence, through which gradients flow
  int64_t batch = 32;  // sequences in a step, of all ranks; with length x segments whole windows
  int64_t accumulate = 1;  // parts that a step's batch is fed in
  int64_t segments = 1;    // steps in which a row goes on where it was: truncated back-propagation
  bool resets_documents = true;  // the state is empty where a document begins inside a window
  InitialState initial_state = InitialState::Empty;
  double noise_deviation = 0;  // of InitialState::Noise
  bool recompute = false;      // activations, in the backward pass
  Schedule schedule;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, clip = 1;
  std::vector<std::string> undecayed = {};  // parts of names of weights without weight decay
  uint64_t seed = 0;
  std::string dtype = "f32";  // of activations, f32 or bf16; weights and moments are f32
  int64_t log_every = 50, validate_every = 500, checkpoint_every = 500;  // steps
  int64_t validation_rows = 16;                                          // sequences of each source
  int64_t validation_length = 0;  // tokens; 0: the training length
  double save_every = 600;        // seconds between checkpoints, besides those by steps; 0: none

  /// Tokens of a row over all its segments.
  int64_t span() const { return length * segments; }
};

struct Progress {
  int64_t step, steps;  // taken, in all
  double loss_nats;     // mean since the last report
  double learning_rate, gradient_norm;
};

/// Trains, or goes on where a stopped run of the same configuration was, to the same bytes (on a CPU
/// of equal threads). Leaves in `folder`: model.safetensors and config.json (the family's published
/// layout), its tokenizer, train.jsonl (the journal: losses, learning rates, spikes, validation) and
/// checkpoint.safetensors. A finished folder is left as it is.
/// With several ranks each holds the model and takes its rows of every part of the batch; gradients
/// are averaged, so that all is as with one but for rounding. Rank 0 alone reads and writes the
/// folder, validates and reports. Any number of ranks goes on where any other was.
/// Errors  Usage if a value is out of range or the folder holds another configuration's run, or a
///         rank has other options or data than rank 0; Input if the folder holds a model without its
///         journal, or a finished run without its model; Interrupted after a signal to any rank, once
///         the checkpoint is written (on others than rank 0 with an empty message)
void train(const TrainConfig& config,
           at::Device device,
           const std::filesystem::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress,
           Ranks& ranks);

/// By this process alone.
void train(const TrainConfig& config,
           at::Device device,
           const std::filesystem::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress);

}  // namespace stuffed::train
