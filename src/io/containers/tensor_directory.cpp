#include "stuffed/io/tensor_directory.h"

namespace stuffed::io {

TensorDirectory TensorDirectory::of_shapes(
    const fs::path& path, const std::map<std::string, std::vector<int64_t>>& shapes) {
  TensorEntries entries;
  for (const auto& [name, shape] : shapes)
    entries[name] = {.shape = shape, .dtype = at::kFloat, .storage = name};
  return {path, std::move(entries)};
}

}  // namespace stuffed::io
