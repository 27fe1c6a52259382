// SentencePiece's BPE on models small enough to follow by hand. Against the library:
// tests/python/test_tokenizers.py.
#include "src/io/tokenizers/spm_bpe.h"

#include <limits>

#include <gtest/gtest.h>

#include "stuffed/core/error.h"

namespace stuffed::io {
namespace {

using Ids = std::vector<int32_t>;

// Bytes are 0 to 255, the given pieces follow.
class Model {
 public:
  explicit Model(const std::vector<SpmPiece>& pieces) : names_(256) {
    for (size_t byte = 0; byte < 256; ++byte) {
      names_[byte] = fmt::format("<0x{:02X}>", byte);
      model_.pieces.push_back({.text = names_[byte], .score = 0, .type = SpmPiece::Byte});
    }
    model_.pieces.insert(model_.pieces.end(), pieces.begin(), pieces.end());
    model_.model_type = 2;
    model_.add_dummy_prefix = false;
    model_.remove_extra_whitespaces = false;
  }

  std::optional<SpmBpe> make() const { return SpmBpe::make(model_, "a model"); }
  Ids encode(const std::string& text) const {
    const auto bpe = make().value();
    Ids ids;
    BpeEncoder encoder(bpe.merges(), text.size(), ids);
    bpe.encode(text, /*goes_on=*/false, encoder, ids);
    return ids;
  }
  SpmModel& settings() { return model_; }

 private:
  std::vector<std::string> names_;
  SpmModel model_;
};

const std::vector<SpmPiece> kLetters = {{"a", -9}, {"b", -9}, {"\u2581", -9}};  // 256 257 258

std::vector<SpmPiece> letters_and(const std::vector<SpmPiece>& more) {
  std::vector<SpmPiece> out = kLetters;
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

TEST(SpmBpe, OfEqualScoresTheLeftmostPairMerges) {
  EXPECT_EQ(Model(letters_and({{"ab", -1}, {"ba", -1}})).encode("aba"), Ids({259, 256}));
  EXPECT_EQ(Model(letters_and({{"ab", -2}, {"ba", -1}})).encode("aba"), Ids({256, 260}));
  EXPECT_EQ(Model(letters_and({{"ba", -1}, {"ab", -1}})).encode("bab"), Ids({259, 257}));
}

TEST(SpmBpe, APieceIsMadeOfAnyTwoThatSpellIt) {
  const Model model(letters_and({{"ab", -1}, {"bb", -2}, {"abb", -3}}));
  EXPECT_EQ(model.encode("abb"), Ids({261}));        // ab + b
  EXPECT_EQ(model.encode("abbb"), Ids({259, 260}));  // ab, bb; abb would need what they took
  EXPECT_EQ(model.encode("bbabb"), Ids({260, 261}));
}

TEST(SpmBpe, ACharacterWithoutAPieceIsItsBytes) {
  EXPECT_EQ(Model(kLetters).encode("a\u00e9 b"), Ids({256, 0xC3, 0xA9, 258, 257}));
  const Model spaceless({{"a", -9}});
  EXPECT_EQ(spaceless.encode("a a"), Ids({256, 0xE2, 0x96, 0x81, 256}));
}

TEST(SpmBpe, UserDefinedPiecesAreCutOutFirst) {
  const Model model(letters_and({{"ab", -1},
                                 {"ba", -2},
                                 {"bab", 0, SpmPiece::UserDefined},
                                 {"\u2581\u2581", 0, SpmPiece::UserDefined},
                                 {"a b", 0, SpmPiece::UserDefined}}));
  EXPECT_EQ(model.encode("abab"), Ids({256, 261}));
  EXPECT_EQ(model.encode("a  b"), Ids({256, 262, 257}));
  EXPECT_EQ(model.encode("a b"), Ids({256, 258, 257}));  // by then the space is spelled U+2581
}

TEST(SpmBpe, TheSpaceBeforeTheTextIsPartOfIt) {
  Model model(
      letters_and({{"\u2581"
                    "a",
                    -1}}));
  model.settings().add_dummy_prefix = true;
  EXPECT_EQ(model.encode("a a"), Ids({259, 259}));
  EXPECT_EQ(model.encode(" a"), Ids({258, 259}));
}

TEST(SpmBpe, LeavesOtherModelsToTheLibrary) {
  EXPECT_TRUE(Model(kLetters).make().has_value());
  EXPECT_FALSE(Model(letters_and({{"ab", -1, SpmPiece::Unused}})).make().has_value());
  EXPECT_FALSE(Model(letters_and({{"ax", -1}})).make().has_value());
  Model unigram(kLetters), normalized(kLetters), trimmed(kLetters), suffixed(kLetters);
  unigram.settings().model_type = 1;
  normalized.settings().has_character_map = true;
  trimmed.settings().remove_extra_whitespaces = true;
  suffixed.settings().whitespace_is_suffix = true;
  for (const Model* model : {&unigram, &normalized, &trimmed, &suffixed})
    EXPECT_FALSE(model->make().has_value());
}

TEST(SpmBpe, RefusesAScoreThatIsNotANumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(Model(letters_and({{"ab", nan}})).make(), Error);
}

}  // namespace
}  // namespace stuffed::io
