#include "stuffed/io/json.h"

#include <cmath>

#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;
using testing::TempFolder;

TEST(Json, ReadsTheLiteralsThatPythonWrites) {
  const json value = parse_json(R"({"limit": [0.0, Infinity], "low": -Infinity, "x": NaN})", "c");
  EXPECT_EQ(value["limit"][0], 0.0);
  EXPECT_EQ(value["limit"][1].get<double>(), INFINITY);
  EXPECT_EQ(value["low"].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(value["x"].get<double>()));
  EXPECT_EQ(parse_json("-Infinity", "c").get<double>(), -INFINITY);
}

TEST(Json, ReadsTheFloatKeyThatNewerWritersUse) {
  const json value = parse_json(
      R"({"limit": [0.0, {"__float__": "Infinity"}], "low": {"__float__":"-Infinity"},
          "x": {"__float__":"NaN"}})",
      "c");
  EXPECT_EQ(value["limit"][1].get<double>(), INFINITY);
  EXPECT_EQ(value["low"].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(value["x"].get<double>()));
}

TEST(Json, LeavesLiteralsInsideStringsAlone) {
  const json value = parse_json(R"({"NaN": "Infinity", "a\"NaN": "\\", "b": NaN})", "c");
  EXPECT_EQ(value["NaN"], "Infinity");
  EXPECT_EQ(value["a\"NaN"], "\\");
  EXPECT_TRUE(std::isnan(value["b"].get<double>()));
  EXPECT_EQ(parse_json(R"({"__float__": 17})", "c")["__float__"], 17);
}

TEST(Json, KeepsEveryKindOfValue) {
  const json value =
      parse_json(R"([null, true, -3, 18446744073709551615, 0.5, "é\n", {}, []])", "");
  EXPECT_TRUE(value[0].is_null());
  EXPECT_EQ(value[1], true);
  EXPECT_EQ(value[2], -3);
  EXPECT_EQ(value[3].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(value[4], 0.5);
  EXPECT_EQ(value[5], "é\n");
  EXPECT_TRUE(value[6].is_object() && value[7].is_array());
  EXPECT_EQ(value, json::parse(value.dump()));
}

TEST(Json, RefusesWhatIsNotJsonNamingTheByte) {
  for (const char* text : {"", "{", "[1,]", "nan", "Infinityx", "- Infinity", "{\"a\" 1}", "1 2",
                           "\"\xff\"", "1e999", "'a'", "[NaN"})
    expect_error(Error::Kind::Input, {"config.json", "byte"},
                 [&] { parse_json(text, "config.json"); });
  expect_error(Error::Kind::Input, {"byte 9:"}, [] { parse_json(R"({"a": 1 x})", ""); });
}

TEST(Json, CountsBytesOfTheOriginalTextAfterALiteral) {
  expect_error(Error::Kind::Input, {"byte 17:"}, [] { parse_json("[Infinity, NaN, x]", ""); });
  expect_error(Error::Kind::Input, {"byte 2:"}, [] { parse_json("[x, NaN]", ""); });
}

TEST(Json, RefusesKeysThatOccurTwice) {
  expect_error(Error::Kind::Input, {"f.json", "\"d_model\"", "twice"},
               [] { parse_json(R"({"d_model": 1, "d_model": 2})", "f.json"); });
}

TEST(Json, LimitsTheDepth) {
  const std::string open(256, '['), close(256, ']');
  EXPECT_TRUE(parse_json(open + close, "").is_array());
  expect_error(Error::Kind::Input, {"f.json", "256"},
               [&] { parse_json('[' + open + close + ']', "f.json"); });
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i)
    objects += "{\"a\":";
  expect_error(Error::Kind::Input, {"256"}, [&] { parse_json(objects, ""); });
}

TEST(Json, FilesAreNamedInErrors) {
  const TempFolder folder;
  EXPECT_EQ(read_json(folder.write("a.json", "[1]"))[0], 1);
  expect_error(Error::Kind::Input, {"missing.json", "No such file"},
               [&] { read_json(folder / "missing.json"); });
  expect_error(Error::Kind::Input, {"b.json", "byte 1"},
               [&] { read_json(folder.write("b.json", "")); });
  expect_error(Error::Kind::Input, {"a.json", "3 bytes"}, [&] { read_json(folder / "a.json", 2); });
  expect_error(Error::Kind::Input, {folder.path().string()}, [&] { read_json(folder.path()); });
}

}  // namespace
}  // namespace stuffed::io
