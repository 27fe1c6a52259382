// Checkpoints of given tensor names and shapes, whose weights are a hole in a sparse file: no bytes
// are ever read of them.
#pragma once
#include <optional>

#include "stuffed/io/json.h"
#include "stuffed/models/registry.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

/// {"tensors": {name: [sizes]}, "config": {...}} as a checkpoint; nothing if it is none, or would
/// have more than 1 GiB. May throw an Input error.
std::optional<Checkpoint> sparse_checkpoint(const io::json& description);

/// The checkpoint that a file of tests/fuzz/corpus/shapes describes.
Checkpoint corpus_checkpoint(const std::filesystem::path& file);

}  // namespace stuffed::fuzz
