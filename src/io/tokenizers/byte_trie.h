// Which is the longest of many byte strings that the text begins with here?
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stuffed::io {

/// An immutable trie over bytes. A node holds a bitmap of its children, which lie next to each
/// other in breadth-first order, so 65 thousand words take a few MB and a step costs one popcount.
class ByteTrie {
 public:
  struct Match {
    size_t bytes = 0;  // 0: nothing matches
    int32_t value = -1;
  };

  ByteTrie() = default;
  /// Words are not empty, values not negative; of equal words the one with the largest value
  /// counts.
  explicit ByteTrie(std::vector<std::pair<std::string, int32_t>> words);

  Match longest(std::string_view text) const;
  bool empty() const { return nodes_.empty(); }
  /// Whether any word starts with this byte.
  bool starts(unsigned char byte) const { return !nodes_.empty() && has_child(nodes_[0], byte); }

 private:
  struct Node {
    std::array<uint64_t, 4> children{};  // bitmap over bytes
    std::array<uint16_t, 4> before{};    // children in the words of the bitmap before this one
    int32_t first_child = 0;
    int32_t value = -1;
  };
  static bool has_child(const Node& node, unsigned char byte) {
    return (node.children[byte >> 6] >> (byte & 63) & 1) != 0;
  }

  /// The child of `node` for this byte, or -1.
  int32_t child(const Node& node, unsigned char byte) const;

  std::vector<Node> nodes_;
  std::vector<int32_t> after_two_;  // the node that two bytes lead to, or -1: most steps are these
};

}  // namespace stuffed::io
