// Byte-pair encoding proper: which neighbours merge, in which order, until nothing merges any more.
// It is the same for GPT-NeoX, whose first symbols are bytes, and SentencePiece, whose first
// symbols are characters.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace stuffed::io {

/// Open-addressing table from a pair of ids to a small value.
class PairTable {
 public:
  struct Entry {
    uint64_t key = kEmpty;
    int32_t rank = 0, product = 0;
  };
  void insert(int32_t left, int32_t right, int32_t rank, int32_t product);
  /// Null if the pair is not there.
  const Entry* find(int32_t left, int32_t right) const {
    if (slots_.empty())
      return nullptr;
    const uint64_t wanted = key(left, right);
    for (size_t i = slot(wanted);; i = (i + 1) & mask_) {
      if (slots_[i].key == wanted)
        return &slots_[i];
      if (slots_[i].key == kEmpty)
        return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative, so no pair has this key
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_ & mask_; }
  void grow();

  std::vector<Entry> slots_;
  size_t size_ = 0, mask_ = 0;
  int shift_ = 0;
};

struct BpeMerge {
  int32_t left, right, product;
};

/// The merge list. Immutable once an encoder uses it.
class BpeMerges {
 public:
  /// A `left` before a `right` becomes `product`. The lowest rank (>= 0) goes first, of equal ranks
  /// the leftmost; of a pair given twice the later rank counts. `last_symbol` is the last
  /// first-stage symbol of `left`, `first_symbol` the first one of `right`: no merge ever crosses
  /// another such seam.
  void add(const BpeMerge& merge, int32_t rank, int32_t last_symbol, int32_t first_symbol);

  const PairTable::Entry* find(int32_t left, int32_t right) const {
    return rules_.find(left, right);
  }
  /// Whether any merge joins what ends in `last_symbol` with what begins with `first_symbol`.
  bool joins(int32_t last_symbol, int32_t first_symbol) const {
    return seams_.find(last_symbol, first_symbol) != nullptr;
  }

 private:
  PairTable rules_, seams_;
};

/// Encodes one text: give it the first-stage symbols in order. Symbols between two seams that no
/// merge crosses are encoded on their own, which changes nothing in the result and keeps the work
/// local: memory follows the longest such run (20 bytes a symbol), not the text. A run of n symbols
/// costs O(n log n).
class BpeEncoder {
 public:
  /// `text_bytes` sizes the cache of recent runs. `out` receives the ids.
  BpeEncoder(const BpeMerges& merges, size_t text_bytes, std::vector<int32_t>& out);

  void push(int32_t symbol) {
    if (!run_.empty() && !merges_.joins(run_.back(), symbol))
      flush();
    run_.push_back(symbol);
  }
  /// Ends the current word: what follows does not merge with it.
  void flush();

 private:
  static constexpr size_t kCachedSymbols = 15;
  struct Cached {
    int32_t symbols[kCachedSymbols];
    int32_t count;  // of symbols; 0: free
    int32_t ids[kCachedSymbols];
    int32_t id_count;
  };
  struct Node {
    int32_t id, previous, next;  // id < 0: merged away
  };

  void merge_short();
  void merge_long();
  void push_candidate(int32_t left);

  const BpeMerges& merges_;
  std::vector<int32_t>& out_;
  std::vector<int32_t> run_;
  std::vector<Cached> cache_;
  std::vector<Node> nodes_;
  std::vector<uint64_t> heap_;  // rank << 32 | position: the lowest rank first, then the leftmost
};

}  // namespace stuffed::io
