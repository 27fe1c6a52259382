// Every tokenizer gives the same ids for a text in pieces as for the whole, wherever it is cut.
#include <functional>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/io/text_encoder.h"
#include "stuffed/io/tokenizer.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::io {
namespace {

using stuffed::testing::repeat;
using stuffed::testing::tokenizer_files;
using Ids = std::vector<int32_t>;

/// Characters at whose neighbourhoods tokenizers look twice.
std::string random_text(Rng& rng, int characters) {
  static const std::vector<std::string> kParts = {" ",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\n\n",
                                                  "\t",
                                                  "\r\n",
                                                  "a",
                                                  "e",
                                                  "the",
                                                  "don't",
                                                  "'s",
                                                  "'",
                                                  "'",
                                                  "1",
                                                  "23",
                                                  ".",
                                                  ",",
                                                  "!!",
                                                  "é",
                                                  "e\u0301",
                                                  "\u0301",
                                                  "中",
                                                  "文",
                                                  "。",
                                                  "😀",
                                                  "<|endoftext|>",
                                                  "<s>",
                                                  "</s>",
                                                  "<",
                                                  ">",
                                                  "|",
                                                  "[INST]",
                                                  "\u00a0",
                                                  "\u3000",
                                                  "ﬁ",
                                                  "한",
                                                  "\u1112\u1161\u11ab",
                                                  "the quick brown fox",
                                                  "    indented",
                                                  "▁",
                                                  "\u2028",
                                                  "x=1;"};
  std::string text;
  for (int i = 0; i < characters; ++i)
    text += kParts[rng.below(kParts.size())];
  return text;
}

/// As a reader does it: bytes come in, whole characters are offered, what was taken is dropped.
Ids in_pieces(const Tokenizer& tokenizer, const std::string& text, Rng& rng) {
  Ids ids;
  std::string pending;
  bool is_first = true;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.size(), at + 1 + rng.below(24));
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
      ++end;
    pending += text.substr(at, end - at);
    at = end;
    const size_t taken = tokenizer.encode_piece(pending, {is_first, /*is_last=*/false}, ids);
    pending.erase(0, taken);
    is_first = is_first && taken == 0;
  }
  tokenizer.encode_piece(pending, {is_first, /*is_last=*/true}, ids);
  return ids;
}

TEST(EncodePiece, IdsAreThoseOfTheWholeText) {
  for (const std::string& file : tokenizer_files())
    for (const bool parse_special : {true, false}) {
      const auto tokenizer = load_tokenizer(file, {.parse_special = parse_special});
      Rng rng(3, file);
      for (int i = 0; i < 60; ++i) {
        const std::string text = random_text(rng, static_cast<int>(rng.below(120)));
        ASSERT_EQ(in_pieces(*tokenizer, text, rng), tokenizer->encode(text))
            << tokenizer->source() << ": " << text;
      }
    }
}

TEST(EncodePiece, OrdinaryTextIsTakenAsItComes) {
  const std::string text = repeat("The quick brown fox jumps over the lazy dog. ", 100);
  for (const std::string& file : tokenizer_files()) {
    const auto tokenizer = load_tokenizer(file);
    Ids ids;
    const size_t taken = tokenizer->encode_piece(text, {.is_first = true, .is_last = false}, ids);
    EXPECT_GT(taken, text.size() - 200) << tokenizer->source();
    EXPECT_LE(ids.size(), text.size());
  }
}

TEST(TextEncoder, KnowsTheByteThatIsNotUtf8AcrossPieces) {
  const auto tokenizer = load_tokenizer("bytes");
  const auto encode = [&](std::initializer_list<std::string_view> pieces, bool checks) {
    TextEncoder encoder(*tokenizer, "a.txt", checks);
    Ids ids;
    for (const std::string_view piece : pieces)
      encoder.add(piece, ids);
    encoder.finish(ids);
    return ids.size();
  };
  EXPECT_EQ(encode({"caf\xc3", "\xa9", "!"}, true), 6u);
  EXPECT_EQ(encode({"\xf0", "\x9f", "\x98", "\x80"}, true), 4u);
  EXPECT_EQ(encode({"\xff", "\xc3"}, false), 2u);
  const auto refused_at = [&](std::initializer_list<std::string_view> pieces) -> std::string {
    try {
      encode(pieces, true);
      return "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Input);
      return error.what();
    }
  };
  EXPECT_NE(refused_at({"abc\xc3", "x"}).find("not UTF-8 at byte 3;"), std::string::npos);
  EXPECT_NE(refused_at({"abc\xf0\x9f", "\x98", ""}).find("not UTF-8 at byte 3;"),
            std::string::npos);
  EXPECT_NE(refused_at({"ab", "\xff"}).find("not UTF-8 at byte 2;"), std::string::npos);
  EXPECT_NE(refused_at({"\xed", "\xa0\x80"}).find("not UTF-8 at byte 0;"), std::string::npos);
  EXPECT_NE(refused_at({"\xc0\x80"}).find("not UTF-8 at byte 0;"), std::string::npos);
}

}  // namespace
}  // namespace stuffed::io
