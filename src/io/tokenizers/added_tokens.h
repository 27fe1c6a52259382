// Tokens that are cut out of the text before any merging, such as <|endoftext|> and GPT-NeoX's runs
// of spaces.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "byte_trie.h"

namespace stuffed::io {

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<std::pair<std::string, int32_t>> tokens)
      : trie_(std::move(tokens)) {}

  bool empty() const { return trie_.empty(); }

  /// Cuts at the leftmost match, of several there the longest. Calls on_text(view) for what lies
  /// between (never empty) and on_token(id), in order.
  template <class OnText, class OnToken>
  void split(std::string_view text, const OnText& on_text, const OnToken& on_token) const {
    size_t begin = 0;
    for (size_t at = 0; !trie_.empty() && at < text.size();) {
      const ByteTrie::Match match = trie_.starts(static_cast<unsigned char>(text[at]))
                                        ? trie_.longest(text.substr(at))
                                        : ByteTrie::Match{};
      if (match.bytes == 0) {
        ++at;
        continue;
      }
      if (begin < at)
        on_text(text.substr(begin, at - begin));
      on_token(match.value);
      begin = at = at + match.bytes;
    }
    if (begin < text.size())
      on_text(text.substr(begin));
  }

 private:
  ByteTrie trie_;
};

}  // namespace stuffed::io
