// Multi-query associative recall (Arora et al., arXiv:2312.04927): pairs of a key and its value, then
// keys again, each of which asks for its value. And its forgetting variant, in which some keys get a
// new value, and the last one counts.
#pragma once
#include <cstdint>
#include <vector>

#include "stuffed/core/rng.h"

namespace stuffed::io {

/// Token 0 is filler, 1 to vocabulary/2 - 1 are keys, vocabulary/2 to vocabulary - 1 values.
struct RecallOptions {
  int64_t pairs = 8;
  int64_t queries = 8;  // at most `pairs`: each key is asked once
  int64_t updates = 0;  // pairs that come once more, with another value
  int64_t gap = 0;      // tokens of filler between an answer and the next query
  int64_t vocabulary = 8192;
};

/// No two keys are equal, nor two values.
struct RecallSample {
  std::vector<int32_t> context = {};  // key, value, key, value, ...
  std::vector<int32_t> queries = {};  // keys, in the order they are asked
  std::vector<int32_t> answers = {};  // their values
  std::vector<bool> is_updated = {};  // of each query: its value was replaced
};

/// Tokens of the pairs, and of the queries with their answers and the gaps between them.
int64_t context_tokens(const RecallOptions& options);
int64_t query_tokens(const RecallOptions& options);

/// Errors  Usage if the vocabulary has too few keys or values, or there are more queries or updates
///         than pairs
void check_recall(const RecallOptions& options);

RecallSample draw_recall(Rng& rng, const RecallOptions& options);

}  // namespace stuffed::io
