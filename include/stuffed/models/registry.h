// From files to a model: recognition by tensor names, then one family's constructor.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "stuffed/io/tensor_file.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed {

/// What decides a model's numbers beside its files.
struct Reading {
  std::optional<std::string> gated_norm;  // Mamba-2 of several groups: "group" or "whole"; else the
                                          // folder says
  std::optional<int64_t> tokenizer_ids;   // how many ids the model's tokenizer has, if it has one
};

/// What a checkpoint consists of, as a family sees it: which tensors there are, and the config.
struct Checkpoint {
  std::filesystem::path path;   // what the user gave
  io::TensorDirectory weights;  // without the prefixes of what wraps a model for training
  io::json config = {};  // config.json (or params.json) beside the weights; null if there is none
  std::filesystem::path config_path = {};
  Reading reading = {};
  std::vector<std::string> warnings = {};  // what was done to the files' names
};

/// A folder or file, opened and not yet recognised.
struct OpenCheckpoint {
  Checkpoint checkpoint;
  io::TensorFile tensors;  // by the names of checkpoint.weights

  static OpenCheckpoint open(const std::filesystem::path& path, const Reading& reading = {});
};

struct LoadOptions {
  std::optional<at::ScalarType>
      dtype;  // of weights and activations; default: f32 on the CPU, bf16 on a GPU
  at::Device device = at::kCPU;
  bool inference = true;  // false: for training; weights stay plain and f32
  Reading reading = {};
};

/// A checkpoint recognised but not loaded: every figure of its configuration, no weights.
struct Skeleton {
  OpenCheckpoint files;
  std::unique_ptr<RecurrentLM>
      model;  // parameters undefined, states on the meta device; sizes and shapes are right
};

/// Recognises a checkpoint and checks every tensor's name and shape, reading no weight and making
/// no hash. The model is a skeleton's. Errors as load_model's
std::unique_ptr<RecurrentLM> unloaded_model(const Checkpoint& checkpoint);

/// unloaded_model(), and the hash of everything that decides the numbers.
Skeleton open_skeleton(const std::filesystem::path& path, const Reading& reading = {});

/// Errors  Input if no family recognises it, naming a few tensors; if a tensor is missing, extra or
/// misshapen; if the config says what is not computed. Usage if `reading` asks for a gated norm
/// that the family has not
std::unique_ptr<RecurrentLM> load_model(const std::filesystem::path& path,
                                        const LoadOptions& options = {});
std::unique_ptr<RecurrentLM> new_model(const std::string& family,
                                       const io::json& config,
                                       uint64_t seed,
                                       const LoadOptions& options = {});

/// While it lives, a model computes in f32 with the very numbers its weights have: what rounding to
/// bf16 on the way changes can then be told from what is wrong. States are to be made anew.
class InF32 {
 public:
  /// Errors  Internal if the weights are packed (CPU inference)
  explicit InF32(RecurrentLM& model);
  ~InF32();
  InF32(const InF32&) = delete;
  InF32& operator=(const InF32&) = delete;

 private:
  RecurrentLM& model_;
  at::ScalarType dtype_;
  std::vector<std::pair<Tensor*, Tensor>> originals_;
};

/// Writes model.safetensors and config.json in the family's saving layout.
void save_model(RecurrentLM& model, const std::filesystem::path& folder);

}  // namespace stuffed
