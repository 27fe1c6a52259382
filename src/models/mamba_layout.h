// What the layouts of Mamba-1 and Mamba-2 share: name prefixes, the tied head, and who must be
// rejected.
#pragma once
#include <string>

#include "checkpoint.h"

namespace stuffed {

/// "model." in Codestral's own upload, which puts it before the original names; else empty.
std::string mamba_prefix(const Checkpoint& checkpoint);

/// "backbone.embedding.weight" (original) or "backbone.embeddings.weight" (Hugging Face), with the
/// prefix.
std::string mamba_embedding_name(const Checkpoint& checkpoint);

/// Layers of a purely recurrent backbone; 0 if there is no backbone. Throws Input for attention
/// hybrids.
int64_t count_mamba_layers(const Checkpoint& checkpoint);

/// Whose names these are: "codestral", "hf" or "original".
std::string mamba_layout(const Checkpoint& checkpoint);

/// True if the head is the embedding: no lm_head.weight, or one in the embedding's storage.
bool mamba_head_is_tied(const Checkpoint& checkpoint);

/// Canonical names are Hugging Face's.
WeightMap mamba_weight_map(const Checkpoint& checkpoint, const Recognition& recognition);

/// config.json's ssm_cfg object (original layout); empty if there is none.
io::json ssm_options(const Checkpoint& checkpoint);

}  // namespace stuffed
