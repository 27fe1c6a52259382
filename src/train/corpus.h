// Texts in memory, and the order in which the documents of shards are read.
#pragma once
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "stuffed/io/shards.h"

namespace stuffed::train {

/// Files one after the other, as token ids.
class TokenCorpus {
 public:
  /// Errors  Input if a file is unreadable, or has fewer than `at_least` tokens
  TokenCorpus(const std::vector<std::filesystem::path>& files,
              const io::Tokenizer& tokenizer,
              int64_t at_least,
              bool wait);

  int64_t size() const;  // tokens
  /// The tokens from `place` on; a window that would run over the end of its file starts earlier
  /// instead.
  void copy(int64_t place, std::span<int64_t> out) const;
  const std::string& hash() const { return hash_; }  // of the bytes

 private:
  std::string bytes_;         // of the tokenizer "bytes": the ids
  std::vector<int32_t> ids_;  // of any other
  std::vector<int64_t> ends_;
  std::string hash_;
};

/// The documents of a set of shards, end to end in a random order that is another in each epoch, cut
/// into windows.
class ShardOrder {
 public:
  ShardOrder(io::TokenShards shards, uint64_t seed, std::string name);

  /// How many windows of so many tokens an epoch has; each shares its last token with the next.
  int64_t windows_per_epoch(int64_t tokens) const { return (shards_.tokens() - 1) / (tokens - 1); }
  /// Window `number`, counted from 0 over all epochs. Returns where documents begin in it.
  std::vector<int64_t> window(int64_t number, std::span<int64_t> out) const;
  /// The first tokens of `rows` documents that have so many, evenly spaced among them.
  /// Errors  Input if there is none
  Tensor beginnings(int64_t rows, int64_t tokens) const;

  const io::TokenShards& shards() const { return shards_; }

 private:
  struct Epoch {
    int64_t number = -1;
    std::vector<int64_t> documents;  // in their order
    std::vector<int64_t> begins;     // token at which each begins
  };
  const Epoch& epoch(int64_t number) const;

  io::TokenShards shards_;
  uint64_t seed_;
  std::string name_;
  mutable Epoch epoch_;  // the last that was asked for
};

}  // namespace stuffed::train
