// The World tokenizer on its published vocabulary (from the Python package rwkv) and on broken
// files.
#include <fstream>

#include "stuffed/core/error.h"
#include "stuffed/io/tokenizer.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::io {
namespace {

using Ids = std::vector<int32_t>;
using stuffed::testing::repeat;
using std::string_literals::operator""s;

class World : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path = stuffed::testing::package_file("rwkv/rwkv_vocab_v20230424.txt");
    ASSERT_NE(path, "") << "the package rwkv==0.8.32 is not installed; run scripts/setup";
    tokenizer_ = load_tokenizer(path);
  }
  static Ids encode(const std::string& text) { return tokenizer_->encode(text); }

  static inline std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(World, ReportsItsPolicy) {
  EXPECT_EQ(tokenizer_->kind(), "rwkv-world");
  EXPECT_EQ(tokenizer_->vocab_size(), 65530);
  EXPECT_EQ(tokenizer_->bos(), std::nullopt);
  EXPECT_EQ(tokenizer_->eos(), 0);
  EXPECT_EQ(tokenizer_->hash().size(), 64u);
}

TEST_F(World, MatchesPublishedVectors) {
  EXPECT_EQ(encode(""), Ids{});
  EXPECT_EQ(encode("\n"), Ids({11}));
  EXPECT_EQ(encode("\n\n"), Ids({261}));
  EXPECT_EQ(encode("\n\n\n"), Ids({3328}));
  EXPECT_EQ(encode(repeat("\n", 10)), Ids({49921, 261}));
  EXPECT_EQ(encode(repeat("\n", 16)), Ids({65248}));
  EXPECT_EQ(encode(repeat("\n", 40)), Ids({65248, 65248, 49921}));
  EXPECT_EQ(encode(" "), Ids({33}));
  EXPECT_EQ(encode("  "), Ids({267}));
  EXPECT_EQ(encode("a b"), Ids({98, 333}));
  EXPECT_EQ(encode("a  b"), Ids({98, 267, 99}));
  EXPECT_EQ(encode("a" + repeat(" ", 130) + "b"), Ids({98, 65529, 267, 99}));
  EXPECT_EQ(encode("\r\n"), Ids({263}));
  EXPECT_EQ(encode("\t\tif x:\n        return 1\n"),
            Ids({257, 1942, 355, 59, 54807, 42178, 284, 11}));
  EXPECT_EQ(encode("12345 012345"), Ids({632, 654, 54, 3474, 643, 665}));
  EXPECT_EQ(encode("00123"), Ids({620, 632, 52}));
  EXPECT_EQ(encode("The passkey is 00123. Remember it."),
            Ids({6699, 31635, 8020, 4600, 3473, 632, 52, 47, 55283, 4601, 47}));
  EXPECT_EQ(encode("é"), Ids({2503}));
  EXPECT_EQ(encode("e\u0301"), Ids({102, 2672}));
  EXPECT_EQ(encode("\u00A0"), Ids({2430}));
  EXPECT_EQ(encode("\u200B"), Ids({9808}));
  EXPECT_EQ(encode("日本語"), Ids({13053, 13205, 16592}));
  EXPECT_EQ(encode("我们发现"), Ids({12605, 10402, 10997, 14446}));
  EXPECT_EQ(encode("🙂"), Ids({3319, 2417}));
  EXPECT_EQ(encode("'\"\\"), Ids({435, 93}));
  EXPECT_EQ(encode(repeat("-", 85)), Ids({65528, 32852}));
  EXPECT_EQ(encode(repeat("=", 70)), Ids({65518, 40271}));
  EXPECT_EQ(encode(repeat("#", 100)), Ids({65527, 65286, 23266}));
}

TEST_F(World, SpecialTokensInTextAreOrdinaryText) {
  EXPECT_EQ(encode("<|endoftext|>"), Ids({61, 125, 25258, 7588, 2318, 125, 63}));
  EXPECT_EQ(encode("<s>"), Ids({61, 116, 63}));
}

TEST_F(World, TakesRawBytes) {
  EXPECT_EQ(encode("\0A"s), Ids({1, 66}));
  EXPECT_EQ(encode("\xFF\xFE\x80\x41"), Ids({256, 255, 129, 66}));
  EXPECT_EQ(encode("\xE6\x97"), Ids({3105}));
}

TEST_F(World, DecodeReturnsTheBytes) {
  std::string all;
  for (int i = 0; i < 65536; ++i)
    all += {static_cast<char>(i >> 8), static_cast<char>(i)};
  EXPECT_EQ(tokenizer_->decode_bytes(encode(all)), all);
  EXPECT_EQ(tokenizer_->decode_bytes(Ids{0, 98, 65530, -1}),
            "a");  // end of text and unused ids spell nothing
  EXPECT_EQ(tokenizer_->decode(Ids{3105, 98}), "\uFFFDa");
}

// The prompts of the passkey task and of the loss curves, by their token counts.
TEST_F(World, CountsOfTheEvaluationPrompts) {
  EXPECT_EQ(encode("The grass is green. The sky is blue. The sun is yellow. Here we go. There and "
                   "back again.\n")
                .size(),
            25u);
  EXPECT_EQ(encode("There is an important info hidden inside a lot of irrelevant text. Find it and "
                   "memorize it.\n\n")
                .size(),
            21u);
  EXPECT_EQ(encode("\nWhat is the pass key? The passkey is").size(), 11u);
  EXPECT_EQ(encode("The passkey is 00123. Remember it. 00123 is the passkey.\n").size(), 20u);
  EXPECT_EQ(encode(repeat("\n", 300000)), Ids(18750, 65248));
  const std::string capitals =
      "The capital of China is Beijing. The capital of USA is Washington. The capital of Norway is "
      "Oslo. ";
  EXPECT_EQ(encode(repeat(capitals, 2000)).size(), 42001u);
  for (int key = 0; key < 100000; ++key)
    ASSERT_EQ(encode(fmt::format(" {:05}", key)).size(), 3u) << key;
}

// --- broken files ---

std::string message_of(const std::string& content) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "world_vocab_test.txt";
  std::ofstream(path, std::ios::binary) << content;
  try {
    load_tokenizer(path.string());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Input);
    return error.what();
  }
  return "";
}

std::string single_bytes() {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte)
    lines += fmt::format("{} b'\\x{:02x}' 1\n", byte + 1, byte);
  return lines;
}

TEST(WorldFile, EscapesOfStringsAndBytesDiffer) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "world_vocab_escapes.txt";
  std::ofstream(path, std::ios::binary)
      << single_bytes() << "257 '\\xe9' 2\n258 b'\\xe9\\x00' 2\n259 'a b ' 4\n260 \"it's\" 4\n"
      << "261 '\\u65e5\\n\\t\\\\\\'' 7\n262 '日\"' 4\n";
  const auto tokenizer = load_tokenizer(path.string());
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->encode("é"), Ids({257}));
  EXPECT_EQ(tokenizer->encode("\xE9\0"s), Ids({258}));
  EXPECT_EQ(tokenizer->encode("a b it's"), Ids({259, 260}));
  EXPECT_EQ(tokenizer->decode_bytes(Ids{261}), "日\n\t\\'");
  EXPECT_EQ(tokenizer->decode_bytes(Ids{262}), "日\"");
}

TEST(WorldFile, RefusesWithTheLine) {
  const std::string good = single_bytes();
  EXPECT_NE(message_of(good + "257 'abc' 4\n")
                .find("line 257: the literal has 3 bytes, but the line says 4"),
            std::string::npos);
  EXPECT_NE(message_of(good + "259 'abc' 3\n").find("line 257: the id is 259, expected 257"),
            std::string::npos);
  EXPECT_NE(message_of(good + "257 'ab\n").find("line 257"), std::string::npos);
  EXPECT_NE(message_of(good + "257 'ab\\' 3\n").find("ends in the middle of an escape"),
            std::string::npos);
  EXPECT_NE(message_of(good + "257 '\\ud800' 3\n").find("not a Unicode character"),
            std::string::npos);
  EXPECT_NE(message_of(good + "257 '' 0\n").find("an empty token"), std::string::npos);
  EXPECT_NE(message_of(good + "257 'a' x\n").find("not a decimal number"), std::string::npos);
  EXPECT_NE(message_of(good.substr(0, good.find("200 b"))).find("no token for the single byte"),
            std::string::npos);
}

}  // namespace
}  // namespace stuffed::io
