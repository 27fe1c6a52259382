// Which file of a model's folder holds its weights.
#include <algorithm>
#include <array>

#include "stuffed/core/error.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::io {

fs::path find_weights(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  check(fs::exists(status), Error::Kind::Input, "{}: no such file or folder", path.string());
  if (!fs::is_directory(status))
    return path;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                           "pytorch_model.bin.index.json", "consolidated.safetensors"})
    if (fs::exists(path / name, error))
      return path / name;

  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path, error))
    if (entry.path().extension() == ".pth" || entry.path().extension() == ".st")
      found.push_back(entry.path());
  check(!error, Error::Kind::Input, "{}: the folder cannot be read: {}", path.string(),
        error.message());
  check(!found.empty(), Error::Kind::Input,
        "{}: no weights in this folder; looked for model.safetensors[.index.json], "
        "pytorch_model.bin[.index.json], consolidated.safetensors, a .pth or a .st file{}",
        path.string(), why_absent(path, "model.safetensors"));
  std::sort(found.begin(), found.end());
  check(found.size() == 1, Error::Kind::Input,
        "{}: {} files could hold the weights ({}, {}, ...); name the one meant", path.string(),
        found.size(), found[0].filename().string(), found.back().filename().string());
  return found.front();
}

}  // namespace stuffed::io
