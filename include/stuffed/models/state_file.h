// A state in a file: a million-token prompt becomes a one-time cost.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed {

/// What a state is only valid with. Two tags must agree in every field.
struct StateTag {
  std::string model_hash;  // ModelConfig::hash
  std::string family;
  std::string dtype;  // of weights and activations
  std::string state_dtype;
  std::string mitigations;  // as given, joined by spaces; "none"
};

struct SavedState {
  State state;
  Tensor last_hidden;  // [B,D]: the row that predicts the next token
};

/// May a state be saved there? Only where there is nothing, or a saved state.
/// Errors  as io::check_place
void check_state_place(const std::filesystem::path& path);

/// The tensors of a state, by the names they have in a file: `<prefix>layers.<i>.recurrent`,
/// `.conv`,
/// `.shift`, `.extra.<slot>`. The position is not among them.
using TensorsByName = std::map<std::string, Tensor>;
void put_state(TensorsByName& tensors, const std::string& prefix, const State& state);

/// A state of `batch` sequences after `position` tokens, copied to the model's device.
/// Errors  Input, naming `where`, if a tensor is missing or its shape or type is not this model's
State take_state(const TensorsByName& tensors,
                 const std::string& prefix,
                 int64_t position,
                 int64_t batch,
                 const RecurrentLM& model,
                 const std::string& where);

/// Safetensors: `layers.<i>.recurrent`, `.conv`, `.shift`, `.extra.<slot>`, `last_hidden`; the tag,
/// the position and the format's version are metadata.
/// Errors  Output; as check_state_place()
void save_state(const std::filesystem::path& path, const SavedState& saved, const StateTag& tag);

/// Errors  Input if the file is damaged, is no saved state, or its tag, version or shapes differ
/// from what `expected` and the model demand; the message names the field
SavedState load_state(const std::filesystem::path& path,
                      const StateTag& expected,
                      const RecurrentLM& model);

}  // namespace stuffed
