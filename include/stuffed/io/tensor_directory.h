// Which tensors there are, and of what shapes: all that can be known of them without their values.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed::io {

namespace fs = std::filesystem;

struct TensorEntry {
  std::vector<int64_t> shape;
  std::vector<int64_t> stride = {};  // in elements
  at::ScalarType dtype;
  std::string storage;    // tensors with equal `storage` share memory in the file
  fs::path file = {};     // the shard that holds it
  bool is_alias = false;  // a second name of a tensor, which safetensors' metadata gives
};

using TensorEntries = std::map<std::string, TensorEntry>;

/// A checkpoint's tensors by name. A copy costs two pointers.
class TensorDirectory {
 public:
  TensorDirectory(fs::path path, TensorEntries entries)
      : TensorDirectory(std::move(path),
                        std::make_shared<const TensorEntries>(std::move(entries))) {}
  TensorDirectory(fs::path path, std::shared_ptr<const TensorEntries> entries)
      : path_(std::move(path)), entries_(std::move(entries)) {}

  /// f32 tensors of these shapes that no file holds.
  static TensorDirectory of_shapes(const fs::path& path,
                                   const std::map<std::string, std::vector<int64_t>>& shapes);

  const TensorEntries& entries() const { return *entries_; }
  bool has(const std::string& name) const { return entries_->contains(name); }
  const fs::path& path() const { return path_; }  // for messages: what was opened

 private:
  fs::path path_;
  std::shared_ptr<const TensorEntries> entries_;
};

}  // namespace stuffed::io
