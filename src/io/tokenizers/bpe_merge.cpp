#include "bpe_merge.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

constexpr size_t kShort =
    48;  // symbols; below this, scanning for the best pair beats keeping a heap
constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();

size_t hash_symbols(std::span<const int32_t> symbols) {
  uint64_t hash = symbols.size();
  for (const int32_t symbol : symbols)
    hash = (hash ^ static_cast<uint32_t>(symbol)) * 0x9E3779B97F4A7C15u;
  return hash >> 40;
}

}  // namespace

void PairTable::grow() {
  std::vector<Entry> old = std::move(slots_);
  slots_.assign(std::max<size_t>(64, old.size() * 2), {});
  mask_ = slots_.size() - 1;
  shift_ = 64 - std::bit_width(mask_);
  size_ = 0;
  for (const Entry& entry : old)
    if (entry.key != kEmpty)
      insert(static_cast<int32_t>(entry.key >> 32), static_cast<int32_t>(entry.key), entry.rank,
             entry.product);
}

void PairTable::insert(int32_t left, int32_t right, int32_t rank, int32_t product) {
  if (2 * (size_ + 1) > slots_.size())
    grow();
  const uint64_t wanted = key(left, right);
  size_t i = slot(wanted);
  while (slots_[i].key != kEmpty && slots_[i].key != wanted)
    i = (i + 1) & mask_;
  size_ += slots_[i].key == kEmpty ? 1 : 0;
  slots_[i] = {wanted, rank, product};
}

void BpeMerges::add(const BpeMerge& merge,
                    int32_t rank,
                    int32_t last_symbol,
                    int32_t first_symbol) {
  rules_.insert(merge.left, merge.right, rank, merge.product);
  seams_.insert(last_symbol, first_symbol, 0, 0);
}

BpeEncoder::BpeEncoder(const BpeMerges& merges, size_t text_bytes, std::vector<int32_t>& out)
    : merges_(merges),
      out_(out),
      cache_(std::bit_ceil(std::clamp<size_t>(text_bytes / 64, 16, 16384))) {}

void BpeEncoder::flush() {
  if (run_.size() <= 1) {
    out_.insert(out_.end(), run_.begin(), run_.end());
    run_.clear();
    return;
  }
  if (run_.size() > kCachedSymbols) {
    run_.size() <= kShort ? merge_short() : merge_long();
    out_.insert(out_.end(), run_.begin(), run_.end());
    run_.clear();
    return;
  }
  Cached& slot = cache_[hash_symbols(run_) & (cache_.size() - 1)];
  const bool known = slot.count == static_cast<int32_t>(run_.size()) &&
                     std::equal(run_.begin(), run_.end(), slot.symbols);
  if (!known) {
    slot.count = static_cast<int32_t>(run_.size());
    std::copy(run_.begin(), run_.end(), slot.symbols);
    merge_short();
    slot.id_count = static_cast<int32_t>(run_.size());
    std::copy(run_.begin(), run_.end(), slot.ids);
  }
  out_.insert(out_.end(), slot.ids, slot.ids + slot.id_count);
  run_.clear();
}

void BpeEncoder::merge_short() {
  struct Pair {
    int32_t rank, product;
  };
  Pair pairs[kShort];  // pairs[i] is what run_[i] and run_[i+1] make
  const auto look_up = [&](size_t i) -> Pair {
    const PairTable::Entry* rule = merges_.find(run_[i], run_[i + 1]);
    return rule == nullptr ? Pair{kNoRank, 0} : Pair{rule->rank, rule->product};
  };
  size_t count = run_.size();
  for (size_t i = 0; i + 1 < count; ++i)
    pairs[i] = look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (pairs[i].rank < pairs[best].rank)
        best = i;
    if (pairs[best].rank == kNoRank)
      break;
    run_[best] = pairs[best].product;
    std::copy(run_.begin() + best + 2, run_.begin() + count, run_.begin() + best + 1);
    std::copy(pairs + best + 1, pairs + count - 1, pairs + best);
    --count;
    if (best > 0)
      pairs[best - 1] = look_up(best - 1);
    if (best + 1 < count)
      pairs[best] = look_up(best);
  }
  run_.resize(count);
}

void BpeEncoder::push_candidate(int32_t left) {
  const int32_t right = nodes_[left].next;
  if (right < 0)
    return;
  if (const PairTable::Entry* rule = merges_.find(nodes_[left].id, nodes_[right].id)) {
    heap_.push_back(static_cast<uint64_t>(rule->rank) << 32 | static_cast<uint32_t>(left));
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
}

void BpeEncoder::merge_long() {
  check(run_.size() < static_cast<size_t>(kNoRank), Error::Kind::Input,
        "a single word of {} characters cannot be tokenized (2^31 is the limit)", run_.size());
  const auto count = static_cast<int32_t>(run_.size());
  nodes_.resize(run_.size());
  heap_.clear();
  heap_.reserve(run_.size());
  for (int32_t i = 0; i < count; ++i)
    nodes_[i] = {run_[i], i - 1, i + 1 < count ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < count; ++i)
    if (const PairTable::Entry* rule = merges_.find(run_[i], run_[i + 1]))
      heap_.push_back(static_cast<uint64_t>(rule->rank) << 32 | static_cast<uint32_t>(i));
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());

  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const auto rank = static_cast<int32_t>(heap_.back() >> 32);
    const auto left = static_cast<int32_t>(heap_.back());
    heap_.pop_back();
    Node& node = nodes_[left];
    if (node.id < 0 || node.next < 0)
      continue;
    // The pair may have changed since the entry was made; then a newer entry stands for it.
    const PairTable::Entry* rule = merges_.find(node.id, nodes_[node.next].id);
    if (rule == nullptr || rule->rank != rank)
      continue;
    node.id = rule->product;
    nodes_[node.next].id = -1;
    node.next = nodes_[node.next].next;
    if (node.next >= 0)
      nodes_[node.next].previous = left;
    push_candidate(left);
    if (node.previous >= 0)
      push_candidate(node.previous);
  }
  run_.clear();
  for (int32_t i = 0; i >= 0; i = nodes_[i].next)
    run_.push_back(nodes_[i].id);
}

}  // namespace stuffed::io
