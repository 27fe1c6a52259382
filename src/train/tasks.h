// Synthetic tasks that need a memory, as streams of tokens.
#pragma once
#include <cstdint>
#include <span>

#include "stuffed/core/rng.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::train {

/// Of first, first+1, ..., last.
int64_t draw_uniform(Rng& rng, int64_t first, int64_t last);

/// Ids that a random string may hold: the printable bytes (0x20..0x7e) of the tokenizer "bytes", all
/// of any other.
struct Alphabet {
  explicit Alphabet(const io::Tokenizer& tokenizer);
  int64_t first, count;
};

/// A string of `length` random tokens, repeated to fill `out`.
void fill_repeat(Rng& rng, const Alphabet& alphabet, int64_t length, std::span<int64_t> out);

/// Passkey prompts with their answers, each of a random length up to what is left, until `out` is
/// full.
void fill_passkey(Rng& rng, const io::Tokenizer& tokenizer, std::span<int64_t> out);

/// 2 to `pairs` pairs of a key and its value, then all keys in another order, each with its value;
/// and so on with new pairs until `out` is full. Keys are of the alphabet's first half, no two of
/// them equal, values of its second half.
void fill_recall(Rng& rng, const Alphabet& alphabet, int64_t pairs, std::span<int64_t> out);

/// Associative recall as `stuffed retrieval --task mqar` asks it, over all ids: 2 to `pairs` pairs,
/// filler before and after them of up to twice the other tokens, then all
/// keys with their values; and so on with new pairs until `out` is full.
void fill_mqar(Rng& rng, int64_t vocabulary, int64_t pairs, std::span<int64_t> out);

}  // namespace stuffed::train
