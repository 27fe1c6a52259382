#include "stuffed/io/token_source.h"

#include <map>
#include <numeric>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;

class TokenSourceTest : public ::testing::Test {
 protected:
  TokenSource open(const SourceOptions& options, int64_t vocab = 256) {
    return TokenSource::open(options, load_tokenizer("bytes"), vocab);
  }
  /// All documents, their tokens as the text they spell.
  std::vector<std::string> texts(TokenSource& source) {
    std::vector<std::string> found;
    while (const auto document = source.next())
      found.emplace_back(document->tokens.begin(), document->tokens.end());
    return found;
  }
  SourceOptions text_files(std::initializer_list<std::string> texts) {
    SourceOptions options;
    for (const std::string& text : texts)
      options.text.push_back(
          folder_.write(fmt::format("{}.txt", char('a' + options.text.size())), text));
    return options;
  }
  SourceOptions jsonl(const std::string& lines, const std::string& field) {
    SourceOptions options;
    options.jsonl = folder_.write("books.jsonl", lines);
    options.field = field;
    return options;
  }

  testing::TempFolder folder_;
};

TEST_F(TokenSourceTest, EachTextFileIsADocumentCutToLengthPlusOneToken) {
  SourceOptions options = text_files({"hello world", "good morning"});
  auto whole = open(options);
  EXPECT_EQ(texts(whole), (std::vector<std::string>{"hello world", "good morning"}));
  options.length = 4;
  auto cut = open(options);
  EXPECT_EQ(texts(cut), (std::vector<std::string>{"hello", "good "}));
  options.documents = 1;
  auto one = open(options);
  EXPECT_EQ(texts(one), std::vector<std::string>{"hello"});
}

TEST_F(TokenSourceTest, AFieldDescendsIntoObjectsAndIntoJsonHeldInStrings) {
  const std::string lines =
      R"({"text":"plain","a":{"b":"nested"},"original":"{\"raw\": {\"content\": \"quoted\"}}"})"
      "\n\n"  // an empty line is no document
      R"({"text":"{\"raw\": 1}","a":{"b":"second"},"original":"{\"raw\": {\"content\": \"x\\u00e9\"}}"})"
      "\n";
  const auto found = [&](const std::string& field) {
    auto source = open(jsonl(lines, field));
    return texts(source);
  };
  EXPECT_EQ(found("a.b"), (std::vector<std::string>{"nested", "second"}));
  EXPECT_EQ(found("original.raw.content"), (std::vector<std::string>{"quoted", "x\xc3\xa9"}));
  EXPECT_EQ(found("text"), (std::vector<std::string>{"plain", R"({"raw": 1})"}));  // not descended
}

TEST_F(TokenSourceTest, AFieldThatIsNotThereOrNoTextIsNamedWithItsLine) {
  const std::string lines = R"({"text":"one two"})"
                            "\n"
                            R"({"texts":5,"text":["a"]})"
                            "\n";
  const auto read_all = [&](const std::string& field) {
    auto source = open(jsonl(lines, field));
    texts(source);
  };
  expect_error(Error::Kind::Input, {"line 1", "'texts'"}, [&] { read_all("texts"); });
  expect_error(Error::Kind::Input, {"line 2", "array"}, [&] { read_all("text"); });
  expect_error(Error::Kind::Input, {"line 1"}, [&] { read_all("text.inner"); });
  auto broken = open(jsonl("{\"text\": \"ok ok\"}\n{\"text\": ", "text"));
  expect_error(Error::Kind::Input, {"books.jsonl", "line 2"}, [&] { texts(broken); });
  SourceOptions missing;
  missing.jsonl = folder_ / "none.jsonl";
  expect_error(Error::Kind::Input, {"none.jsonl"}, [&] { open(missing); });
}

TEST_F(TokenSourceTest, TextThatIsNotUtf8IsRefusedAtItsByte) {
  auto source = open(text_files({"fine text", std::string("ab\xff") + "cd"}));
  EXPECT_TRUE(source.next().has_value());
  expect_error(Error::Kind::Input, {"b.txt", "byte 2"}, [&] { source.next(); });
}

TEST_F(TokenSourceTest, ShortDocumentsAreRefusedOrSkippedAndListed) {
  SourceOptions options = text_files({"long enough", "tiny", "also long enough", "x"});
  options.length = 6;
  auto refusing = open(options);
  EXPECT_TRUE(refusing.next().has_value());
  expect_error(Error::Kind::Input, {"b.txt", "3 targets", "6", "--skip-short"},
               [&] { refusing.next(); });
  options.when_short = Short::Skip;
  auto skipping = open(options);
  EXPECT_EQ(texts(skipping), (std::vector<std::string>{"long en", "also lo"}));
  ASSERT_EQ(skipping.skipped().size(), 2u);
  EXPECT_EQ(skipping.skipped()[0].name, "b.txt");
  EXPECT_EQ(skipping.skipped()[0].targets, 3);
  EXPECT_EQ(skipping.skipped()[1].targets, 0);
  options.documents = 3;
  auto too_few = open(options);
  expect_error(Error::Kind::Input, {"found 2", "expected 3"}, [&] { texts(too_few); });
  options.length = 1000;
  options.documents = 0;
  auto none = open(options);
  expect_error(Error::Kind::Input, {"found 0"}, [&] { none.next(); });
}

TEST_F(TokenSourceTest, PackingJoinsDocumentsAndKnowsWhereEachBegins) {
  SourceOptions options = text_files({"abc", "defghij", "kl", "mno"});
  options.length = 4;
  options.when_short = Short::Pack;
  auto source = open(options);
  const std::vector<std::string> expected = {"abcde", "fghij", "klmno"};
  const std::vector<std::vector<std::pair<int64_t, std::string>>> boundaries = {
      {{0, "a.txt"}, {3, "b.txt"}}, {{0, "b.txt"}}, {{0, "c.txt"}, {2, "d.txt"}}};
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto document = source.next();
    ASSERT_TRUE(document.has_value());
    EXPECT_EQ(std::string(document->tokens.begin(), document->tokens.end()), expected[i]);
    std::vector<std::pair<int64_t, std::string>> found;
    for (const Boundary& boundary : document->boundaries)
      found.emplace_back(boundary.position, boundary.name);
    EXPECT_EQ(found, boundaries[i]) << i;
  }
  EXPECT_FALSE(source.next().has_value());
  EXPECT_EQ(source.leftover_tokens(), 0);

  options.length = 5;
  auto leaving = open(options);
  EXPECT_EQ(texts(leaving), (std::vector<std::string>{"abcdef", "ghijkl"}));
  EXPECT_EQ(leaving.leftover_tokens(), 3);
}

TEST_F(TokenSourceTest, PackedTextsAreEachReadOnceAndInOrder) {
  SourceOptions options = text_files({"The", " quick brown", " fox", " jumps over the lazy dog"});
  options.when_short = Short::Pack;
  for (options.length = 1; options.length < 42; ++options.length) {
    auto source = open(options);
    std::string joined;
    for (const std::string& text : texts(source))
      joined += text;
    const std::string whole = "The quick brown fox jumps over the lazy dog";
    EXPECT_EQ(joined, whole.substr(0, joined.size()));
    EXPECT_EQ(int64_t(joined.size()) + source.leftover_tokens(), int64_t(whole.size()));
    EXPECT_LE(source.leftover_tokens(), options.length);
  }
}

TEST_F(TokenSourceTest, TokenFilesGiveTheirRowsAndRefuseWhatIsNoId) {
  const auto tokens = [&](const Tensor& ids) {
    SourceOptions options;
    options.tokens = folder_ / "ids.safetensors";
    write_safetensors(options.tokens, {{"tokens", ids}});
    return TokenSource::open(options, nullptr, 100);
  };
  for (const auto type : {at::kLong, at::kInt, at::kShort}) {
    auto source = tokens(at::arange(8).view({2, 4}).to(type));
    EXPECT_EQ(source.next()->tokens, (std::vector<int32_t>{0, 1, 2, 3}));
    EXPECT_EQ(source.next()->tokens, (std::vector<int32_t>{4, 5, 6, 7}));
    EXPECT_FALSE(source.next().has_value());
  }
  auto flat = tokens(at::arange(5));
  EXPECT_EQ(flat.next()->tokens.size(), 5u);
  for (const int64_t bad : {int64_t{100}, int64_t{-1}, int64_t{1} << 40}) {
    auto source = tokens(at::tensor({int64_t{1}, bad, int64_t{2}}));
    expect_error(Error::Kind::Input, {"ids.safetensors", std::to_string(bad), "token 1"},
                 [&] { source.next(); });
  }
  expect_error(Error::Kind::Input, {"integers"}, [&] { tokens(at::ones({2, 4})); });
  expect_error(Error::Kind::Input, {"integers"}, [&] { tokens(at::arange(8).view({2, 2, 2})); });
  SourceOptions other;
  other.tokens = folder_ / "ids.safetensors";
  other.tokens_key = "ids";
  expect_error(Error::Kind::Input, {"'ids'", "--tokens-key"},
               [&] { TokenSource::open(other, nullptr, 100); });
}

TEST_F(TokenSourceTest, PartsShareTheDocumentsWhichKeepTheirNumbers) {
  SourceOptions options = jsonl(
      "{\"text\":\"aa\"}\nbad\n{\"text\":\"cc\"}\n{\"text\":\"dd\"}\n"
      "{\"text\":\"ee\"}\n",
      "text");
  options.skip_bad_lines = true;
  const auto whole = open(options).identity();
  std::map<int64_t, std::string> found;
  options.parts = 3;
  for (options.part = 0; options.part < options.parts; ++options.part) {
    TokenSource source = open(options);
    EXPECT_EQ(source.identity(), whole);
    while (const auto document = source.next()) {
      EXPECT_EQ(document->number % 3, options.part);
      found.emplace(document->number,
                    std::string(document->tokens.begin(), document->tokens.end()));
    }
    EXPECT_EQ(source.bad_lines().size(), 1u);
  }
  EXPECT_EQ(found, (std::map<int64_t, std::string>{{0, "aa"}, {2, "cc"}, {3, "dd"}, {4, "ee"}}));
  options.part = 5;
  options.parts = 6;
  TokenSource none = open(options);
  expect_error(Error::Kind::Usage, {"--part 5/6", "only 4"}, [&] { none.next(); });
}

TEST_F(TokenSourceTest, PromptsRepeatUntilTheyAreLongEnough) {
  SourceOptions options;
  options.prompt = "newlines";
  options.length = 700000;  // the text itself has 300,000
  auto source = open(options);
  const auto document = source.next();
  ASSERT_EQ(document->tokens.size(), 700001u);
  EXPECT_EQ(std::accumulate(document->tokens.begin(), document->tokens.end(), int64_t{0}),
            700001 * int64_t{'\n'});
  EXPECT_FALSE(source.next().has_value());
  options.prompt = "capital";
  options.length = 60;
  auto capital = open(options);
  EXPECT_EQ(texts(capital).at(0), "The capital of China is Beijing. The capital of USA is Washin");
}

TEST_F(TokenSourceTest, OptionsThatContradictEachOtherAreUsage) {
  expect_error(Error::Kind::Usage, {"exactly one", "found 0"}, [&] { open({}); });
  SourceOptions two = text_files({"some text"});
  two.prompt = "newlines";
  expect_error(Error::Kind::Usage, {"exactly one", "found 2"}, [&] { open(two); });
  SourceOptions endless;
  endless.prompt = "newlines";
  expect_error(Error::Kind::Usage, {"--length"}, [&] { open(endless); });
  SourceOptions pack = text_files({"some text"});
  pack.when_short = Short::Pack;
  expect_error(Error::Kind::Usage, {"--pack needs --length"}, [&] { open(pack); });
  SourceOptions many = text_files({"some text"});
  many.documents = 2;
  expect_error(Error::Kind::Usage, {"--documents 2"}, [&] { open(many); });
}

TEST_F(TokenSourceTest, TheIdentityNamesWhatDecidesTheDocuments) {
  SourceOptions options = text_files({"some text"});
  options.length = 3;
  const json before = open(options).identity();
  EXPECT_EQ(before.at("kind"), "text");
  EXPECT_EQ(before.at("sha256").at(0).get<std::string>().size(), 64u);
  EXPECT_EQ(before.at("tokenizer").at("kind"), "bytes");
  EXPECT_EQ(open(options).identity(), before);
  options.length = 4;
  EXPECT_NE(open(options).identity(), before);
  options.length = 3;
  options.when_short = Short::Skip;
  EXPECT_NE(open(options).identity(), before);
  EXPECT_NE(open(text_files({"some test"})).identity().at("sha256"), before.at("sha256"));
}

}  // namespace
}  // namespace stuffed::io
