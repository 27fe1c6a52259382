// Prompts as runs of shared token blocks: thousands of long prompts that repeat the same few texts
// fit in little memory, and are compared without being written out.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "stuffed/io/tokenizer.h"

namespace stuffed::eval {

/// Token blocks by id; equal blocks have equal ids.
class TokenBlocks {
 public:
  int32_t add(std::span<const int32_t> tokens);
  std::span<const int32_t> operator[](int32_t id) const { return *by_id_.at(size_t(id)); }

 private:
  std::map<std::vector<int32_t>, int32_t> ids_;
  std::vector<const std::vector<int32_t>*> by_id_;  // keys of ids_, which never move
};

struct Run {
  int32_t block;    // id in TokenBlocks; never an empty block
  int64_t repeats;  // > 0
};

/// A token sequence: its runs, one after the other.
using Prompt = std::vector<Run>;

int64_t token_count(const TokenBlocks& blocks, const Prompt& prompt);

/// Tokens [begin, end) of the prompt, written to `out` (end - begin of them).
void write_tokens(
    const TokenBlocks& blocks, const Prompt& prompt, int64_t begin, int64_t end, int64_t* out);

struct Comparison {
  int64_t common;  // tokens both begin with
  bool less;       // a before b in token order; a sequence comes after its own beginnings
};

/// Costs the number of runs, plus the tokens of blocks that differ.
Comparison compare(const TokenBlocks& blocks, const Prompt& a, const Prompt& b);

/// A long text in units, such as sentences, of which prompts take consecutive ones.
class TextUnits {
 public:
  /// Errors  Unsupported if the tokens do not spell the text
  TextUnits(const io::Tokenizer& tokenizer, std::vector<std::string> units);

  int64_t size() const { return int64_t(texts_.size()); }
  const std::string& text(int64_t unit) const { return texts_.at(size_t(unit)); }
  /// The tokens of the whole text that begin in units [begin, end).
  std::span<const int32_t> tokens(int64_t begin, int64_t end) const;

 private:
  std::vector<std::string> texts_;
  std::vector<int32_t> tokens_;
  std::vector<size_t> ends_;  // of each unit, in tokens_
};

struct Piece {
  std::string text;
  int64_t repeats = 1;
  const TextUnits* units = nullptr;  // not owned; if not null: `repeats` units from `first` on
  int64_t first = 0;
};

/// Tokenises texts made of repeated pieces without writing them out. A tokenizer joins text across
/// the seams of pieces, so tokens come from the whole text with every repetition cut down to four:
/// the first and the last copy see other neighbours than those between, and these must agree.
/// Of consecutive units three are kept at either end: the first two see their true neighbours, and
/// the second must have the tokens it has in the text the units are from, as all between then have.
class PromptAssembler {
 public:
  struct Assembled {
    Prompt prompt;
    std::vector<int64_t> begins;  // of each piece: the first token that begins in it
  };

  /// Both are kept by reference. All pieces with units are of the same ones.
  PromptAssembler(const io::Tokenizer& tokenizer, TokenBlocks& blocks)
      : tokenizer_(tokenizer), blocks_(blocks) {}

  /// Errors  Unsupported if the tokenizer splits equal copies of a piece differently, or if its
  ///         tokens do not spell the text
  Assembled assemble(std::span<const Piece> pieces);

 private:
  /// For every copy of every piece of a text without long repetitions: the id of its block, or
  /// kNothing if no token begins in it.
  const std::vector<int32_t>& blocks_of(const std::vector<std::string_view>& copies);

  using Put = std::function<void(int32_t block, int64_t repeats)>;
  void put_copies(const Piece& piece, const int32_t* ids, const Put& put) const;
  void put_units(const Piece& piece, const int32_t* ids, const Put& put);
  int32_t block_of(const TextUnits& units, int64_t begin, int64_t end);

  const io::Tokenizer& tokenizer_;
  TokenBlocks& blocks_;
  std::unordered_map<std::string, std::vector<int32_t>> seen_;  // by text, with the seams marked
  std::map<std::pair<int64_t, int64_t>, int32_t> stretches_;    // blocks of units [begin, end)
};

}  // namespace stuffed::eval
