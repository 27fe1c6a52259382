// What the layouts of Mamba-1 and Mamba-2 share: name prefixes, whose config it is, the tied head,
// and who must be rejected.
#pragma once
#include <string>
#include <vector>

#include "checkpoint.h"
#include "rms_trunk.h"
#include "stuffed/core/rng.h"

namespace stuffed {

/// Canonical tensor names: Hugging Face's.
inline constexpr RmsTrunkNames kMambaNames = {.embedding = "backbone.embeddings.weight",
                                              .layers = "backbone.layers.",
                                              .final_norm = "backbone.norm_f.weight"};

/// How a new model begins: as in mamba_ssm, where its config does not say otherwise.
struct MambaBeginning {
  double dt_min = 1e-3, dt_max = 0.1, dt_floor = 0;
  double embedding_deviation = 0.02;
  bool scales_by_depth = true;  // output projections over the root of the number of layers
};
/// Of a new embedding before a family changes it.
inline constexpr double kMadeDeviation = 0.02;

/// Of the config of a new model.
/// Errors  as ConfigValues, for what is no range or deviation
void read_mamba_beginning(const ConfigValues& config, MambaBeginning& begin);

/// A number whose softplus is a step, log-uniform between the least and the largest.
float draw_step_bias(Rng& rng, const MambaBeginning& begin);
/// [count] of them, f32 on the CPU.
Tensor new_step_bias(uint64_t seed,
                     const std::string& key,
                     int64_t count,
                     const MambaBeginning& begin);

/// "model." in Codestral's own upload, which puts it before the original names; else empty.
std::string mamba_prefix(const Checkpoint& checkpoint);

/// "backbone.embedding.weight" (original) or "backbone.embeddings.weight" (Hugging Face), with the
/// prefix.
std::string mamba_embedding_name(const Checkpoint& checkpoint);

/// Layers of a purely recurrent backbone; 0 if there is no backbone. Throws Input for attention
/// hybrids.
int64_t count_mamba_layers(const Checkpoint& checkpoint);

/// Whose folder this is: "codestral", "hf" or "original". The config's own keys say; where they do
/// not, the tensors' names.
std::string mamba_layout(const Checkpoint& checkpoint);

/// True if the head is the embedding: no lm_head.weight, or one in the embedding's storage.
/// Errors  Input if the config says that they are two, and there is no head
bool mamba_head_is_tied(const Checkpoint& checkpoint);

/// Throws unless the config's flags agree with the biases that the first layer has.
void check_mamba_biases(const Checkpoint& checkpoint, const std::string& layout);

/// What the outlines of the original layout share: A_log has the shape `a_log` in every layer, and
/// the convolution `channels`.
Outline mamba_outline(const ModelSize& size, const std::vector<int64_t>& a_log, int64_t channels);

/// Canonical names are Hugging Face's.
WeightMap mamba_weight_map(const Checkpoint& checkpoint, const Recognition& recognition);

}  // namespace stuffed
