// SentencePiece on Mistral's published model (from the Python package mistral-common).
#include "stuffed/core/error.h"
#include "stuffed/io/tokenizer.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::io {
namespace {

using Ids = std::vector<int32_t>;
using std::string_literals::operator""s;
using stuffed::testing::repeat;

class Mistral : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path =
        stuffed::testing::package_file("mistral_common/data/tokenizer.model.v1");
    ASSERT_NE(path, "") << "the package mistral-common==1.13.1 is not installed; run scripts/setup";
    tokenizer_ = load_tokenizer(path);
  }
  static Ids encode(const std::string& text) { return tokenizer_->encode(text); }

  static inline std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(Mistral, ReportsItsPolicy) {
  EXPECT_EQ(tokenizer_->kind(), "sentencepiece");
  EXPECT_EQ(tokenizer_->vocab_size(), 32000);
  EXPECT_EQ(tokenizer_->bos(), 1);
  EXPECT_EQ(tokenizer_->eos(), 2);
  const auto bare = load_tokenizer(tokenizer_->source(), {.add_bos = false});
  EXPECT_EQ(bare->bos(), std::nullopt);
  EXPECT_EQ(bare->encode("Hello world"), Ids({22557, 1526}));
}

TEST_F(Mistral, MatchesPublishedVectors) {
  EXPECT_EQ(encode(""), Ids({1}));
  EXPECT_EQ(encode("\n"), Ids({1, 28705, 13}));
  EXPECT_EQ(encode("\n\n\n"), Ids({1, 28705, 13, 13, 13}));
  EXPECT_EQ(encode(" "), Ids({1, 259}));
  EXPECT_EQ(encode("  "), Ids({1, 2287}));
  EXPECT_EQ(encode("a b"), Ids({1, 264, 287}));
  EXPECT_EQ(encode("a  b"), Ids({1, 264, 28705, 287}));
  EXPECT_EQ(encode("Hello world"), Ids({1, 22557, 1526}));
  EXPECT_EQ(encode("  foo"), Ids({1, 259, 19222}));
  EXPECT_EQ(encode("foo  "), Ids({1, 19222, 259}));
  EXPECT_EQ(encode("12345"), Ids({1, 28705, 28740, 28750, 28770, 28781, 28782}));
  EXPECT_EQ(encode("The passkey is 00123. Remember it."),
            Ids({1, 415, 1455, 1499, 349, 28705, 28734, 28734, 28740, 28750, 28770, 28723, 13399,
                 378, 28723}));
  EXPECT_EQ(encode("é"), Ids({1, 1233}));
  EXPECT_EQ(encode("e\u0301"), Ids({1, 317, 28949}));
  EXPECT_EQ(encode("ﬁ"), Ids({1, 28705, 30160}));
  EXPECT_EQ(encode("日本語"), Ids({1, 28705, 29142, 29119, 30321}));
  EXPECT_EQ(encode("🙂"), Ids({1, 28705, 29340}));
  EXPECT_EQ(encode("\t"), Ids({1, 28705, 12}));
  EXPECT_EQ(encode("\0"s), Ids({1, 28705, 3}));
  EXPECT_EQ(encode("\r\n"), Ids({1, 1302, 13}));
  EXPECT_EQ(encode("▁"), Ids({1, 259}));
}

TEST_F(Mistral, SpecialTokensInTextAreASwitch) {
  EXPECT_EQ(encode("<s>"), Ids({1, 1}));
  EXPECT_EQ(encode("</s>x"), Ids({1, 2, 1318}));
  EXPECT_EQ(encode("a</s> b"), Ids({1, 264, 2, 28705, 287}));
  const auto literal =
      load_tokenizer(tokenizer_->source(), {.add_bos = false, .parse_special = false});
  const Ids ids = literal->encode("<s>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0);
  EXPECT_EQ(literal->decode(ids), "<s>");
}

TEST_F(Mistral, DecodeStripsTheSpaceInFront) {
  EXPECT_EQ(tokenizer_->decode(encode("  Hello\n日本語 🙂")), "  Hello\n日本語 🙂");
  EXPECT_EQ(tokenizer_->decode_bytes(Ids{415, 1455, 3}), " The pass\0"s);
  EXPECT_EQ(tokenizer_->decode(Ids{1, 415, 2, 40000, -1}),
            "The");  // control and unknown ids spell nothing
}

TEST_F(Mistral, RefusesTextThatIsNotUtf8) {
  EXPECT_THROW(encode("ab\xFF"), Error);
  EXPECT_THROW(encode("\xED\xA0\x80"), Error);  // a surrogate
}

TEST_F(Mistral, CountsOfTheEvaluationPrompts) {
  EXPECT_EQ(encode("The grass is green. The sky is blue. The sun is yellow. Here we go. There and "
                   "back again.\n")
                .size(),
            26u);
  EXPECT_EQ(encode("There is an important info hidden inside a lot of irrelevant text. Find it and "
                   "memorize it.\n\n")
                .size(),
            23u);
  EXPECT_EQ(encode("\nWhat is the pass key? The passkey is").size(), 13u);
  EXPECT_EQ(encode("The passkey is 00123. Remember it. 00123 is the passkey.\n").size(), 27u);
  const Ids newlines = encode(repeat("\n", 300000));
  EXPECT_EQ(newlines.size(), 300002u);
  EXPECT_EQ(std::count(newlines.begin(), newlines.end(), 13), 300000);
  const size_t stem = encode("The passkey is").size();
  for (int key = 0; key < 100000; key += 7)
    ASSERT_EQ(encode(fmt::format("The passkey is {:05}", key)).size() - stem, 6u) << key;
}

// Runs that no piece joins are encoded on their own, and remembered; neither must show.
TEST_F(Mistral, ALongTextIsEncodedAsItsParts) {
  const std::string unit = "Some text, naïve  and 日本語 🙂;\n\tmore   of it  ";
  const Ids both = encode(repeat(unit, 20000));  // 1 MB
  const Ids front = encode(repeat(unit, 100)), back = encode(repeat(unit, 101));
  ASSERT_GT(both.size(), front.size());
  const size_t period = back.size() - front.size();
  for (size_t i = 1 + period; i + period + 4 < both.size(); ++i)  // the end differs
    ASSERT_EQ(both[i], both[i + period]) << i;
  EXPECT_EQ(both.size(), front.size() + 19900 * period);
}

}  // namespace
}  // namespace stuffed::io
