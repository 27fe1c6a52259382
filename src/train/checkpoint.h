// The state of a training run as one safetensors file.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::train {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Writes the tensors, the number of steps taken, and the run's configuration, atomically.
/// Errors  Output if the file cannot be written whole
void save_checkpoint(const std::filesystem::path& path,
                     const NamedTensors& tensors,
                     int64_t step,
                     const io::json& config);

/// Whether a file of this kind is there.
bool is_checkpoint(const std::filesystem::path& path);

class SavedRun {
 public:
  /// Nothing if there is no file.
  /// Errors  Usage if it was written under another configuration; Input if it is damaged
  static std::optional<SavedRun> open(const std::filesystem::path& path, const io::json& config);

  int64_t step() const { return step_; }  // steps taken
  bool has(const std::string& name) const { return file_.has(name); }
  /// Copies what was saved into these tensors. Errors  Input if one is missing or misshapen
  void restore(const NamedTensors& tensors) const;

 private:
  SavedRun(io::TensorFile file, int64_t step) : file_(std::move(file)), step_(step) {}
  io::TensorFile file_;
  int64_t step_;
};

}  // namespace stuffed::train
