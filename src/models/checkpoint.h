// What families ask of a checkpoint: its tensor names, and a config.json that must agree with the
// shapes.
#pragma once
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "config.h"

namespace stuffed {

#define FAMILY(name) extern const Family name##_family;
#include "families.inc"
#undef FAMILY

/// 1 + the largest index i for which a tensor name starts with prefix + i + "."; 0 if there is
/// none.
int64_t count_layers(const io::TensorDirectory& weights, std::string_view prefix);

/// Keys that ChatRWKV's converter leaves beside the weights.
inline constexpr std::array kChatRwkvKeys = {"_strategy", "_version", "_rescale_layer"};
[[noreturn]] void fail_chat_rwkv(const std::filesystem::path& path, std::string_view key);

/// True if the head is the embedding: no tensor `head`, or one in the storage of `embedding`.
/// Errors  Input if one of `keys` of the config says that they are two, and `head` is not there
bool head_is_tied(const Checkpoint& checkpoint,
                  std::initializer_list<std::string_view> keys,
                  const std::string& embedding,
                  const std::string& head);

/// The first tensor whose name contains `part`; null if there is none.
const std::string* find_name(const io::TensorDirectory& weights, std::string_view part);

/// The shape of a tensor that must be there. Throws Input if it is not, or has not `dims` axes.
const std::vector<int64_t>& shape_of(const Checkpoint& checkpoint,
                                     const std::string& name,
                                     size_t dims);

/// The true vocabulary: what the tokenizer has, if it fits the embedding's rows; without one the
/// config's vocab_size, except that 50280 and 50288, padded GPT-NeoX, mean 50277; without a config
/// the same rule on the rows. Throws Input if vocab_size exceeds the rows.
int64_t true_vocab(const Checkpoint& checkpoint, int64_t rows);

}  // namespace stuffed
