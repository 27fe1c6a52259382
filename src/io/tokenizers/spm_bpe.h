// SentencePiece's BPE without its library: many times as fast, as runs of characters that no piece
// joins are encoded one at a time, and the ones seen lately are remembered.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "character_bpe.h"
#include "spm_model.h"

namespace stuffed::io {

class SpmBpe {
 public:
  /// None if the model does what this class does not: unigram, normalization, no byte tokens,
  /// unused pieces, pieces of more than 1 KiB or with a character that is none itself.
  /// Errors  Input, naming `path`, if a score is not a number
  static std::optional<SpmBpe> make(const SpmModel& model, const std::string& path);

  /// Encodes one text, or with `goes_on` what follows a place where last_cut() cut it. It must be
  /// UTF-8 and not empty. Memory: a few bytes per token beyond `ids`,
  /// and with user-defined pieces a copy of the text; 20 bytes a character of the longest run that
  /// pieces join.
  void encode(std::string_view text,
              bool goes_on,
              BpeEncoder& encoder,
              std::vector<int32_t>& ids) const;
  /// As CharacterBpe's. `whole` knows of the user-defined pieces, too.
  size_t last_cut(std::string_view text, const PieceCut& whole) const {
    return bpe_.last_cut(text, whole);
  }
  const BpeMerges& merges() const { return bpe_.merges(); }

 private:
  CharacterBpe bpe_;
  AddedTokens user_defined_;  // cut out first, whole
  bool add_dummy_prefix_ = true;
};

}  // namespace stuffed::io
