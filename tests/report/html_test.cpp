#include "src/report/html.h"

#include <cmath>

#include <gtest/gtest.h>

namespace stuffed::report {
namespace {

TEST(Html, ShowsEveryStringAsText) {
  EXPECT_EQ(escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(escaped("caf\xC3\xA9"), "caf\xC3\xA9");
  EXPECT_EQ(escaped("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(escaped(std::string("a\0b\x1B", 4)),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
}

TEST(Html, NoStringEndsAScript) {
  const io::json evil = {{"name", "</script><!--"}, {"broken", "a\xFF"}};
  const std::string text = script_json(evil);
  EXPECT_EQ(text.find('<'), std::string::npos);
  const io::json again = io::json::parse(text);
  EXPECT_EQ(again.at("name"), "</script><!--");
  EXPECT_EQ(again.at("broken"), "a\xEF\xBF\xBD");
}

TEST(Html, NumbersAreShownShortAndHeldInFull) {
  EXPECT_EQ(number(2.0 / 3).html, "<data value=\"0.6666666666666666\">0.6667</data>");
  EXPECT_EQ(interval(0.5, 0.25, 0.75).html,
            "<data value=\"0.5\">0.5</data> <small>[<data value=\"0.25\">0.25</data>, "
            "<data value=\"0.75\">0.75</data>]</small>");
  EXPECT_EQ(interval(0.5, std::nan(""), 1).html, number(0.5).html);
  EXPECT_EQ(number(std::nan("")).html.find("<data"), std::string::npos);
  EXPECT_EQ(value(io::json(7)).html, count(7).html);
  EXPECT_EQ(value(io::json()).html, number(std::nan("")).html);
}

TEST(Html, SizesAreInK) {
  EXPECT_EQ(size_text(1000), "1000");
  EXPECT_EQ(size_text(8192), "8K");
  EXPECT_EQ(size_text(1536), "1.5K");
  EXPECT_EQ(size_text(int64_t{1} << 20), "1M");
}

TEST(Html, TablesNameRowsAndColumns) {
  const Table table{.caption = "a < b", .columns = {"x", "y"}, .rows = {{text("one"), count(1)}}};
  const std::string html = html_of(table);
  EXPECT_EQ(html_of({.caption = "empty", .columns = {"x"}}), "");
  EXPECT_NE(html.find("<caption>a &lt; b</caption>"), std::string::npos);
  EXPECT_NE(html.find("<th scope=\"col\">x</th><th scope=\"col\" class=\"number\">y</th>"),
            std::string::npos);
  EXPECT_NE(html.find("<tr><th scope=\"row\">one</th><td class=\"number\">"), std::string::npos);
}

}  // namespace
}  // namespace stuffed::report
