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
}

ByteTrie::Match ByteTrie::longest(std::string_view text) const {
  Match best;
  if (nodes_.empty())
    return best;
  const Node* node = &nodes_[0];
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const uint64_t bitmap = node->children[byte >> 6];
    const uint64_t bit = uint64_t{1} << (byte & 63);
    if ((bitmap & bit) == 0)
      break;
    const int rank = node->before[byte >> 6] + std::popcount(bitmap & (bit - 1));
    node = &nodes_[static_cast<size_t>(node->first_child + rank)];
    if (node->value >= 0)
      best = {i + 1, node->value};
  }
  return best;
}

}  // namespace stuffed::io
