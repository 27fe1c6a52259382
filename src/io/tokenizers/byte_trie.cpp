#include "byte_trie.h"

#include <algorithm>
#include <bit>

namespace stuffed::io {

ByteTrie::ByteTrie(std::vector<std::pair<std::string, int32_t>> words) {
  if (words.empty())
    return;
  std::sort(words.begin(), words.end());
  struct Range {
    size_t begin, end, depth;  // the sorted words below a node, and how many bytes they share
  };
  std::vector<Range> ranges{{0, words.size(), 0}};
  nodes_.emplace_back();
  for (size_t n = 0; n < ranges.size();
       ++n) {  // breadth first: a node's children become neighbours
    auto [begin, end, depth] = ranges[n];
    while (begin < end && words[begin].first.size() == depth)  // the shortest sorts first
      nodes_[n].value = words[begin++].second;
    nodes_[n].first_child = static_cast<int32_t>(nodes_.size());
    while (begin < end) {
      const auto byte = static_cast<unsigned char>(words[begin].first[depth]);
      size_t stop = begin;
      while (stop < end && static_cast<unsigned char>(words[stop].first[depth]) == byte)
        ++stop;
      nodes_[n].children[byte >> 6] |= uint64_t{1} << (byte & 63);
      ranges.push_back({begin, stop, depth + 1});
      nodes_.emplace_back();
      begin = stop;
    }
    for (size_t word = 1; word < 4; ++word)
      nodes_[n].before[word] = static_cast<uint16_t>(nodes_[n].before[word - 1] +
                                                     std::popcount(nodes_[n].children[word - 1]));
  }
  after_two_.assign(size_t{1} << 16, -1);
  for (int first = 0; first < 256; ++first) {
    const int32_t node = child(nodes_[0], static_cast<unsigned char>(first));
    for (int second = 0; node >= 0 && second < 256; ++second)
      after_two_[static_cast<size_t>(first << 8 | second)] =
          child(nodes_[static_cast<size_t>(node)], static_cast<unsigned char>(second));
  }
}

int32_t ByteTrie::child(const Node& node, unsigned char byte) const {
  const uint64_t bitmap = node.children[byte >> 6];
  const uint64_t bit = uint64_t{1} << (byte & 63);
  if ((bitmap & bit) == 0)
    return -1;
  return node.first_child + node.before[byte >> 6] + std::popcount(bitmap & (bit - 1));
}

ByteTrie::Match ByteTrie::longest(std::string_view text) const {
  Match best;
  if (nodes_.empty() || text.empty())
    return best;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  int32_t node = text.size() > 1 ? after_two_[static_cast<size_t>(byte(0) << 8 | byte(1))] : -1;
  size_t depth = 2;
  if (node < 0) {
    node = child(nodes_[0], byte(0));
    if (node >= 0 && nodes_[static_cast<size_t>(node)].value >= 0)
      best = {1, nodes_[static_cast<size_t>(node)].value};
    return best;
  }
  for (; node >= 0;
       node = depth < text.size() ? child(nodes_[static_cast<size_t>(node)], byte(depth++)) : -1)
    if (const int32_t value = nodes_[static_cast<size_t>(node)].value; value >= 0)
      best = {depth, value};
  if (best.bytes > 0)
    return best;
  node = child(nodes_[0], byte(0));
  return {nodes_[static_cast<size_t>(node)].value >= 0 ? size_t{1} : size_t{0},
          nodes_[static_cast<size_t>(node)].value};
}

}  // namespace stuffed::io
