// How many ids a model's tokenizer has, where that says which rows of the embedding are padding.
#pragma once
#include <cstdint>
#include <optional>

#include "stuffed/io/tokenizer.h"

namespace stuffed {

/// The tokenizer's ids. None for "bytes", which any model can be fed, and for RWKV World, whose
/// last rows no token has and which are not masked.
std::optional<int64_t> deciding_ids(const io::Tokenizer& tokenizer);

/// The same of the tokenizer in the model's folder; none if there is none that can be read.
std::optional<int64_t> deciding_ids(const std::filesystem::path& model);

}  // namespace stuffed
