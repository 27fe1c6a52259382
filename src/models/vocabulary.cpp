#include "stuffed/models/vocabulary.h"

#include "stuffed/core/error.h"

namespace stuffed {

std::optional<int64_t> deciding_ids(const io::Tokenizer& tokenizer) {
  if (tokenizer.kind() == "bytes" || tokenizer.kind() == "rwkv-world")
    return std::nullopt;
  return tokenizer.vocab_size();
}

std::optional<int64_t> deciding_ids(const std::filesystem::path& model) {
  try {
    return deciding_ids(*io::find_tokenizer(model));
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace stuffed
