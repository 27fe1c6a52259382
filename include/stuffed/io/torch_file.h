// One tensor in a file of PyTorch's.
#pragma once
#include <filesystem>

#include "stuffed/core/tensor.h"

namespace stuffed::io {

/// An f32 tensor as torch.save() writes it: a zip archive that torch.load(weights_only=True) reads.
/// Written atomically.
/// Errors  Output if the file cannot be written whole; Unsupported for 4 GiB or more
void write_torch_tensor(const std::filesystem::path& path, const Tensor& tensor);

}  // namespace stuffed::io
