// The tokens of a text that repeats itself, without encoding all of it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "stuffed/io/tokenizer.h"

namespace stuffed::io {

/// A text whose byte i is unit[i % unit.size()], of any number of bytes. Its ids are exactly those
/// that Tokenizer::encode() gives for the whole of it.
///
/// Long texts are not encoded whole: their ids have the form head + body * n + tail, where a body
/// covers `cycle` bytes, and head and tail depend on the length modulo the cycle alone:
///
/// - What is decided by what lies near it repeats with the text, but for what lies near the two
///   ends: the longest match from left to right (World), words (NeoX), stretches that no merge
///   joins (SentencePiece).
/// - Within one word without end, such as newlines, byte-pair encoding takes the merges in the
///   order of their ranks, each from left to right. Each turns ids of that form into others of that
///   form: it moves the ends by at most a body, and where the body is one symbol that merges with
///   itself it halves n, which leaves over what n modulo 2 says, so what the length modulo the new
///   cycle says. As many merges matter as there are pieces that occur in the text.
///
/// None of this is taken on trust. The cycle is read off the ids of a short stretch; then four
/// stretches of the wanted length modulo the cycle, one of them twice as long as the first, must
/// have ids of one head, body and tail. If they have not, or the cycle is long, the text is encoded
/// whole.
class RepeatedText {
 public:
  /// `tokenizer` is not owned. `unit` is not empty.
  RepeatedText(const Tokenizer& tokenizer, std::string unit);

  /// How many ids the first `bytes` bytes have, which must be whole units.
  int64_t count(size_t bytes) { return ids_of(bytes).count(); }
  /// Appends the ids [begin, end) of the first `bytes` bytes.
  void append(size_t bytes, int64_t begin, int64_t end, std::vector<int32_t>& ids) {
    ids_of(bytes).append(begin, end, ids);
  }
  /// Bytes that were encoded so far.
  size_t encoded_bytes() const { return encoded_bytes_; }

 private:
  struct Folded {
    size_t bytes = 0;  // of the text
    std::vector<int32_t> head, body, tail;
    int64_t bodies = 0;

    int64_t count() const;
    void append(int64_t begin, int64_t end, std::vector<int32_t>& ids) const;
  };

  std::vector<int32_t> encode(size_t bytes);
  void find_cycle();
  bool fold(size_t bytes);
  const Folded& ids_of(size_t bytes);

  const Tokenizer& tokenizer_;
  std::string unit_;
  bool has_looked_ = false;              // for a cycle
  size_t cycle_ = 0, cycle_tokens_ = 0;  // 0: there is none
  Folded ids_;                           // of the length that was asked for last
  size_t encoded_bytes_ = 0;
};

}  // namespace stuffed::io
