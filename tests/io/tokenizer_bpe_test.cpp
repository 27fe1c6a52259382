// GPT-NeoX's tokenizer on its published file, where that is found.
#include "stuffed/core/error.h"
#include "stuffed/io/tokenizer.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::io {
namespace {

using Ids = std::vector<int32_t>;
using stuffed::testing::repeat;
using std::string_literals::operator""s;

class NeoxPublished : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path = stuffed::testing::published_file("20B_tokenizer.json");
    if (!path.empty())
      tokenizer_ = load_tokenizer(path);
  }
  void SetUp() override {
    if (!tokenizer_)
      GTEST_SKIP() << "20B_tokenizer.json is not in $STUFFED_TOKENIZERS; the same algorithm is "
                      "tested on a small BPE of the same configuration";
  }
  static Ids encode(const std::string& text) { return tokenizer_->encode(text); }

  static inline std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(NeoxPublished, ReportsItsPolicy) {
  EXPECT_EQ(tokenizer_->kind(), "neox-bpe");
  EXPECT_EQ(tokenizer_->vocab_size(), 50277);
  EXPECT_EQ(tokenizer_->bos(), std::nullopt);
  EXPECT_EQ(tokenizer_->eos(), 0);
}

TEST_F(NeoxPublished, MatchesPublishedVectors) {
  EXPECT_EQ(encode(""), Ids{});
  EXPECT_EQ(encode("\n"), Ids({187}));
  EXPECT_EQ(encode("\n\n"), Ids({535}));
  EXPECT_EQ(encode("\n\n\n"), Ids({2756}));
  EXPECT_EQ(encode(repeat("\n", 8)), Ids({25330}));
  EXPECT_EQ(encode(repeat("\n", 10)), Ids({25330, 535}));
  EXPECT_EQ(encode(" "), Ids({209}));
  EXPECT_EQ(encode("  "), Ids({50276}));
  EXPECT_EQ(encode("a b"), Ids({66, 270}));
  EXPECT_EQ(encode("a  b"), Ids({66, 50276, 67}));
  EXPECT_EQ(encode("a   b"), Ids({66, 50275, 67}));
  EXPECT_EQ(encode("x" + repeat(" ", 25) + "y"), Ids({89, 50254, 340}));
  EXPECT_EQ(encode("x" + repeat(" ", 26) + "y"), Ids({89, 50254, 50276, 90}));
  EXPECT_EQ(encode("\t\tif x:\n        return 1\n"),
            Ids({186, 186, 338, 1269, 27, 187, 50270, 2309, 337, 187}));
  EXPECT_EQ(encode("don't DON'T I'll we've 've'"),
            Ids({9903, 626, 24694, 8, 53, 309, 1833, 359, 1849, 686, 306, 8}));
  EXPECT_EQ(encode("12345 012345"), Ids({42594, 470, 42594}));
  EXPECT_EQ(encode("The passkey is 00123. Remember it."),
            Ids({510, 1509, 2364, 310, 7449, 10683, 15, 18741, 352, 15}));
  EXPECT_EQ(encode("\r\n"), Ids({2379}));
  EXPECT_EQ(encode("x \n y"), Ids({89, 2490, 340}));
  EXPECT_EQ(encode("x  \n  y"), Ids({89, 50276, 187, 50276, 90}));
  EXPECT_EQ(encode("foo  "), Ids({12110, 50276}));
  EXPECT_EQ(encode("  foo"), Ids({50276, 12110}));
  EXPECT_EQ(encode("A\0B"s), Ids({34, 177, 35}));
  EXPECT_EQ(encode("'s's"), Ids({434, 434}));
  EXPECT_EQ(encode("it's  ok"), Ids({262, 434, 50276, 536}));
  EXPECT_EQ(encode(" \n\n "), Ids({209, 1744}));
}

TEST_F(NeoxPublished, MatchesPublishedUnicodeVectors) {
  EXPECT_EQ(encode("é"), Ids({860}));
  EXPECT_EQ(encode("e\u0301"), Ids({860}));
  EXPECT_EQ(encode("\u212B"), Ids({18221}));
  EXPECT_EQ(encode("\uFB01"), Ids({46992, 212}));
  EXPECT_EQ(encode("\uAC00"), Ids({35061}));
  EXPECT_EQ(encode("\u1100\u1161"), Ids({35061}));
  EXPECT_EQ(encode("naïve café"), Ids({2072, 30180, 36241}));
  EXPECT_EQ(encode("日本語"), Ids({49868, 19119, 241}));
  EXPECT_EQ(encode("🙂👍🏽"), Ids({14931, 18713, 14931, 228, 224, 14931, 226, 123}));
  EXPECT_EQ(encode("\u200B\u00A0x"), Ids({12882, 575, 89}));
  EXPECT_EQ(encode("\u3000x"), Ids({19409, 89}));
  EXPECT_EQ(encode("a\u2028b"), Ids({66, 40702, 67}));
  EXPECT_EQ(encode("\uFFFD"), Ids({21478}));
  EXPECT_EQ(encode("½²"), Ids({8313, 15818}));
}

TEST_F(NeoxPublished, SpecialTokensInTextAreASwitch) {
  EXPECT_EQ(encode("<|endoftext|>Hello"), Ids({0, 12092}));
  EXPECT_EQ(encode("a<|endoftext|> b"), Ids({66, 0, 270}));
  const auto literal = load_tokenizer(tokenizer_->source(), {.parse_special = false});
  const Ids ids = literal->encode("a<|endoftext|>  b");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 50276), 1);  // runs of spaces are not special
  EXPECT_EQ(literal->decode(ids), "a<|endoftext|>  b");
}

TEST_F(NeoxPublished, RefusesTextThatIsNotUtf8) {
  try {
    encode("abc\xE6\x97");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Input);
    EXPECT_NE(std::string(error.what()).find("text: not UTF-8 at byte 3"), std::string::npos);
  }
}

TEST_F(NeoxPublished, CountsOfTheEvaluationPrompts) {
  EXPECT_EQ(encode("The grass is green. The sky is blue. The sun is yellow. Here we go. There and "
                   "back again.\n")
                .size(),
            25u);
  EXPECT_EQ(encode("There is an important info hidden inside a lot of irrelevant text. Find it and "
                   "memorize it.\n\n")
                .size(),
            21u);
  EXPECT_EQ(encode("\nWhat is the pass key? The passkey is").size(), 11u);
  EXPECT_EQ(encode("The passkey is 00123. Remember it. 00123 is the passkey.\n").size(), 18u);
  EXPECT_EQ(encode(repeat("\n", 300000)), Ids(37500, 25330));
  const std::string capitals =
      "The capital of China is Beijing. The capital of USA is Washington. The capital of Norway is "
      "Oslo. ";
  EXPECT_EQ(encode(repeat(capitals, 2000)).size(), 42001u);
  std::map<size_t, int> keys_of_length;
  for (int key = 0; key < 100000; ++key)
    ++keys_of_length[encode(fmt::format(" {:05}", key)).size()];
  EXPECT_EQ(keys_of_length, (std::map<size_t, int>{{1, 1}, {2, 72415}, {3, 27584}}));
}

}  // namespace
}  // namespace stuffed::io
