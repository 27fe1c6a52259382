// Checkpoints of given tensor names and shapes, which no file holds.
#pragma once
#include <optional>

#include "stuffed/io/json.h"
#include "stuffed/models/registry.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

/// {"tensors": {name: [sizes]}, "config": {...}} as a checkpoint; nothing if it is none, or would
/// have a tensor of more than 2^29 elements.
std::optional<Checkpoint> described_checkpoint(const io::json& description);

/// The checkpoint that a file of tests/fuzz/corpus/shapes describes.
Checkpoint corpus_checkpoint(const std::filesystem::path& file);

}  // namespace stuffed::fuzz
