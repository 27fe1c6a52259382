// Named tensors in files: safetensors and PyTorch's zip container, read by memory map, without
// executing a pickle; safetensors written. Renames nothing.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/io/tensor_directory.h"

namespace stuffed::io {

/// One checkpoint: a single file, or the shards an index names.
class TensorFile {
 public:
  /// A .safetensors, .bin, .pth, .pt, .st file (the content decides, not the name), or an
  /// *.index.json.
  /// Errors  Input, naming the file, for anything that is not whole and well-formed
  static TensorFile open(const fs::path& path);

  /// The same tensors, by the names that `rename` makes of theirs.
  /// Errors  Input if two become one
  TensorFile renamed(const std::function<std::string(const std::string&)>& rename) const;

  TensorDirectory directory() const;  // what is in it, without the values
  const TensorEntries& entries() const;
  bool has(const std::string& name) const;
  /// The tensor in the file's own dtype, as a read-only view of the mapped file where alignment
  /// allows; call .to(...) or .clone() to own it. Valid as long as any view or the TensorFile
  /// lives.
  /// Errors  Input if a PyTorch zip's CRC-32 is not that of its bytes (checked once)
  Tensor load(const std::string& name) const;
  /// Tells the system that this tensor's pages are no longer needed, so that a pass over the file
  /// does not keep it resident.
  void release(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const;  // safetensors' __metadata__
  const std::vector<fs::path>& files() const;                  // every file that was opened
  const fs::path& path() const;                                // what open() was given

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Where a model's weights are: `path` itself if it is a file; in a folder
/// model.safetensors[.index.json], else pytorch_model.bin[.index.json], else Mistral's
/// consolidated.safetensors, else the only .pth or .st.
/// A safetensors file of any other name is never taken as weights. Throws Input naming what was
/// looked for.
fs::path find_weights(const fs::path& path);

/// Writes atomically (temporary file, then rename), contiguous copies, names in order.
/// Errors  Output if the file cannot be written whole
void write_safetensors(const fs::path& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace stuffed::io
