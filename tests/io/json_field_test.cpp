// The line reader against the JSON parser: one verdict, one text, however the line is cut.
#include "src/io/json_field.h"

#include <algorithm>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/io/json.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;

/// The field's text, or nothing if the line is refused.
std::optional<std::string> text_of(const std::string& line,
                                   const std::string& field,
                                   size_t piece) {
  std::string text;
  try {
    JsonField scanner(field, "here", [&](std::string_view more) { text += more; });
    for (size_t at = 0; at < line.size(); at += piece)
      scanner.add(std::string_view(line).substr(at, piece));
    scanner.finish();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Input);
    return {};
  }
  return text;
}

/// The same by the parser that reads the whole line. It takes a NUL for the end; we do not.
std::optional<std::string> parsed(const std::string& line, const std::string& field) {
  if (line.find('\0') != line.npos)
    return {};
  try {
    json value = parse_json(line, "here");
    for (size_t begin = 0; begin <= field.size();) {
      const size_t dot = std::min(field.find('.', begin), field.size());
      if (value.is_string())
        value = parse_json(value.get<std::string>(), "here");
      value = json(value.at(field.substr(begin, dot - begin)));
      begin = dot + 1;
    }
    return value.get<std::string>();
  } catch (const std::exception&) {
    return {};
  }
}

void expect_equal(const std::string& line, const std::string& field) {
  const auto expected = parsed(line, field);
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{7}, line.size() + 1})
    EXPECT_EQ(text_of(line, field, piece), expected) << line << " by pieces of " << piece;
}

const std::string kLines[] = {
    R"({"text":"plain"})",
    R"( {"a":[1,-2.5e-3,true,false,null,NaN,-Infinity],"text":"\"\\\/\b\f\n\r\t"} )",
    R"({"text":"é 中 😀 \u00e9\u4e2d\ud83d\ude00","b":{"text":"inner","c":[{"text":1},[]]}})",
    R"({"b":{"text":"deeper"},"text":"top"})",
    R"({"b":"{\"text\": \"held in a \\\"string\\\" \\ud83d\\ude00\"}","text":""})",
    R"({"text":"x","n":1e308,"m":0.1E+5,"k":-0})",
    R"({})",
    R"(["text"])",
    R"("text")",
    R"("{\"text\":\"a whole line in quotes\"}")",
    R"("\"{}\"")",
    R"({"text":"a","text":"b"})",
    R"({"text":"a","x":{"y":1,"y":2}})",
    R"({"text":["a"]})",
    R"({"text":null})",
    R"({"text":"\ud800"})",
    R"({"text":"\ud800x"})",
    R"({"text":"\udc00"})",
    R"({"text":"\ud800\u0041"})",
    R"({"text":"a",})",
    R"({"text":"a"}})",
    R"({"text":"a"} {"text":"a"})",
    R"({"text":"a","n":1e999})",
    R"({"text":"a","n":01})",
    R"({"text":"a","n":1.})",
    R"({"text":"a","n":+1})",
    R"({"text":"a","n":--1})",
    R"({"text":"a","n":truefalse})",
    R"({"text":"a" "b":1})",
    R"({"text" "a"})",
    R"({text:"a"})",
    R"({"text":"a)",
    R"({"text":"a")",
    R"({"text":"\x"})",
    R"({"text":"\u12g4"})",
    "{\"text\":\"a\tb\"}",
    std::string("{\"text\":\"a\0b\"}", 14),
    std::string("{\"text\":\"a\"}\0", 13),
    "{\"text\":\"\xff\"}",
    "{\"text\":\"\xc3\"}",
    "{\"text\":\"\xed\xa0\x80\"}",
    "\xEF\xBB\xBF{\"text\":\"behind a byte order mark\"}",
    "",
    "   ",
};

TEST(JsonField, AgreesWithTheParserOnEveryLine) {
  for (const std::string& line : kLines)
    for (const char* field : {"text", "b.text", "b.c", "n", "", "text.", ".text", "x.y"})
      expect_equal(line, field);
}

TEST(JsonField, AgreesWithTheParserOnDamagedLines) {
  Rng rng(7, "lines");
  const std::string letters = "\"\\{}[]:,0e.-u \xc3\xa9" + std::string(1, '\0');
  for (int i = 0; i < 20000; ++i) {
    std::string line = kLines[rng.below(std::size(kLines))];
    for (uint64_t edits = rng.below(3) + 1; edits > 0 && !line.empty(); --edits) {
      const size_t at = rng.below(line.size());
      const char letter = letters[rng.below(letters.size())];
      if (rng.below(3) == 0)
        line.erase(at, 1);
      else if (rng.below(2) == 0)
        line.insert(at, 1, letter);
      else
        line[at] = letter;
    }
    const char* field = rng.below(2) == 0 ? "text" : "b.text";
    ASSERT_EQ(text_of(line, field, rng.below(5) + 1), parsed(line, field)) << line;
  }
}

TEST(JsonField, DepthAndWhatIsKeptAreBounded) {
  const auto nested = [](int depth) {
    return "{\"text\":\"x\",\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_EQ(text_of(nested(255), "text", 1000), "x");
  EXPECT_EQ(text_of(nested(256), "text", 1000), std::nullopt);
  EXPECT_EQ(text_of("{\"text\":\"x\",\"n\":" + std::string(5000, '1') + "}", "text", 1000),
            std::nullopt);
  EXPECT_EQ(text_of("{\"" + std::string(17 << 20, 'k') + "\":1,\"text\":\"x\"}", "text", 1 << 20),
            std::nullopt);
}

TEST(JsonField, SaysWhatIsWrongAndWhere) {
  const auto read = [](const char* line, const char* field) {
    JsonField scanner(field, "books.jsonl: line 3", [](std::string_view) {});
    scanner.add(line);
    scanner.finish();
  };
  expect_error(Error::Kind::Input, {"books.jsonl: line 3", "byte 9", "no value"},
               [&] { read(R"({"n": xyz })", "text"); });
  expect_error(Error::Kind::Input, {"no field 'text'", "--field text"},
               [&] { read(R"({"texts":"x"})", "text"); });
  expect_error(Error::Kind::Input, {"no field 'b'", "--field a.b"},
               [&] { read(R"({"a":{"c":1}})", "a.b"); });
  expect_error(Error::Kind::Input, {"field 'text' is array, expected a string"},
               [&] { read(R"({"text":["x"]})", "text"); });
  expect_error(Error::Kind::Input, {"text", "twice"},
               [&] { read(R"({"text":"x","text":"y"})", "text"); });
}

}  // namespace
}  // namespace stuffed::io
