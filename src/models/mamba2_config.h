// What a Mamba-2 is, from a checkpoint's tensors and config, or from the config of a new one; and
// the config.json that says it again.
#pragma once
#include <limits>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "mamba_layout.h"

namespace stuffed {

struct Mamba2Config : RmsTrunkConfig {
  int64_t heads, head_width, groups, state_width;
  int64_t d_mlp =
      0;  // hidden width of the gated MLP after the mixer (d_intermediate, padded to 128); 0: none
  bool projection_bias = false, conv_bias = true, has_norm = true, norm_before_gate = false;
  bool d_per_channel = false;
  bool norm_is_grouped = true;  // the gated norm: over each group's channels, or over all of them
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  std::vector<std::string> warnings;
  MambaBeginning beginning = {};
  io::json kept = io::json::object();  // of a new model's config: changes no number, and is saved

  int64_t d_inner() const { return heads * head_width; }
  bool has_norm_choice() const { return groups > 1 && has_norm; }
  bool is_saved_as_original() const { return has_norm_choice() && norm_is_grouped; }
  int64_t conv_channels() const { return d_inner() + 2 * groups * state_width; }
};

/// What a new model's config can say that decides what it is.
inline constexpr NewKey kNewMamba2Keys[] = {{"hidden_size"},
                                            {"num_hidden_layers"},
                                            {"head_dim"},
                                            {"state_size"},
                                            {"num_heads", "expand x hidden_size / head_dim"},
                                            {"n_groups", "1"},
                                            {"conv_kernel", "4"},
                                            {"expand", "2"},
                                            {"vocab_size", "the tokenizer's"},
                                            {"layer_norm_epsilon", "1e-5"},
                                            {"use_bias", "false"},
                                            {"use_conv_bias", "true"},
                                            {"residual_in_fp32", "true"},
                                            {"time_step_limit", "none"},
                                            {"tie_word_embeddings", "true"},
                                            {"stuffed_gated_norm", "whole"},
                                            {"time_step_min", "1e-3"},
                                            {"time_step_max", "0.1"},
                                            {"time_step_floor", "0"},
                                            {"initializer_range", "0.02"},
                                            {"rescale_prenorm_residual", "true"}};

const ConfigTable& mamba2_config_table(const Checkpoint& checkpoint,
                                       const Recognition& recognition);

/// Errors  Input if tensors and config contradict each other, or say what is not computed
Mamba2Config read_mamba2_config(const Checkpoint& checkpoint, const Recognition& recognition);

/// From a config.json in Hugging Face's keys; every width must be given.
/// Errors  Usage for a key that is not known or cannot be honoured
Mamba2Config new_mamba2_config(const io::json& config);

/// config.json in Hugging Face's layout; of a gated norm by group in the original's, as
/// transformers has none.
/// Errors  Unsupported if the layout cannot hold the model
io::json saved_mamba2_config(const Mamba2Config& m);

}  // namespace stuffed
