// What families ask of a checkpoint: its tensor names, and a config.json that must agree with the
// shapes.
#pragma once
#include <array>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "stuffed/models/registry.h"

namespace stuffed {

#define FAMILY(name) extern const Family name##_family;
#include "families.inc"
#undef FAMILY

/// 1 + the largest index i for which a tensor name starts with prefix + i + "."; 0 if there is
/// none.
int64_t count_layers(const io::TensorFile& weights, std::string_view prefix);

/// Keys that ChatRWKV's converter leaves beside the weights.
inline constexpr std::array kChatRwkvKeys = {"_strategy", "_version", "_rescale_layer"};
[[noreturn]] void fail_chat_rwkv(const std::filesystem::path& path, std::string_view key);

/// The first tensor whose name contains `part`; null if there is none.
const std::string* find_name(const io::TensorFile& weights, std::string_view part);

/// The shape of a tensor that must be there. Throws Input if it is not, or has not `dims` axes.
const std::vector<int64_t>& shape_of(const Checkpoint& checkpoint,
                                     const std::string& name,
                                     size_t dims);

/// The first of `keys` that the config holds as an integer (null counts as absent).
std::optional<int64_t> config_int(const io::json& config, std::initializer_list<const char*> keys);
double config_number(const io::json& config,
                     std::initializer_list<const char*> keys,
                     double otherwise);
bool config_bool(const io::json& config, std::initializer_list<const char*> keys, bool otherwise);

/// Throws Input if the config holds one of `keys` and it differs from what the tensors say.
void check_config(const Checkpoint& checkpoint,
                  std::initializer_list<const char*> keys,
                  int64_t from_tensors);

/// The true vocabulary: the config's vocab_size, except that 50280 and 50288, padded GPT-NeoX, mean
/// 50277; without a config the same rule on the embedding's rows. Throws Input if it exceeds the
/// rows.
int64_t true_vocab(const Checkpoint& checkpoint, int64_t rows);

}  // namespace stuffed
