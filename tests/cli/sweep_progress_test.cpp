#include <gtest/gtest.h>

#include "src/cli/sweep/progress.h"

namespace stuffed::cli {
namespace {

sweep::Cell cell(const std::string& name, const std::string& command, const std::string& model) {
  return {.name = name, .command = command, .settings = {{.key = "model", .values = {model}}}};
}

TEST(SweepRates, AreThoseOfTheSameCommandAndModelElseOfTheCommandElseOfAll) {
  Rates rates;
  const sweep::Cell small = cell("a", "ppl-by-length", "small"),
                    large = cell("b", "ppl-by-length", "large"),
                    other = cell("c", "ppl-by-length", "other"),
                    keys = cell("d", "passkey", "small");
  EXPECT_FALSE(rates.seconds(small, 1));
  EXPECT_FALSE(rates.knows(small));
  rates.add(small, 100, 10);
  rates.add(large, 100, 90);
  rates.add(keys, 0, 1000);  // of nothing there is nothing to learn
  EXPECT_DOUBLE_EQ(*rates.seconds(small, 50), 5);
  EXPECT_DOUBLE_EQ(*rates.seconds(large, 50), 45);
  EXPECT_DOUBLE_EQ(*rates.seconds(other, 50), 25);
  EXPECT_DOUBLE_EQ(*rates.seconds(keys, 50), 25);
  EXPECT_TRUE(rates.knows(other));
  EXPECT_FALSE(rates.knows(keys));
}

TEST(SweepProgress, TheTimeLeftIsByWhatFinishedCellsTook) {
  std::vector<PlannedWork> work;
  for (const char* name : {"a", "b", "c", "d"})
    work.push_back({.cell = cell(name, "ppl-by-length", "m"), .tokens = 100});
  const auto left = [](const SweepProgress& progress) {
    const std::string text = progress.text();
    return text.substr(text.rfind(';') + 2);
  };
  SweepProgress unknown(work, 1, 0, {});
  EXPECT_EQ(left(unknown), "time left unknown");
  unknown.on_start(0);
  unknown.on_end(0, {.error = {}, .seconds = 10, .is_whole = true});
  EXPECT_EQ(left(unknown), "30 s left");
  unknown.on_start(1);
  unknown.on_end(1, {.exit_code = 3, .error = "no", .seconds = 1000, .is_whole = true});
  unknown.on_end(2,
                 {.error = {}, .seconds = 1000, .is_whole = false});  // most of it was done before
  EXPECT_EQ(left(unknown), "10 s left");
  EXPECT_NE(unknown.text().find("2 of 4 cells done, 1 failed"), std::string::npos);

  Rates earlier;
  earlier.add(work[0].cell, 100, 30);
  EXPECT_EQ(left(SweepProgress(work, 1, 1, earlier)), "2 min left");
  EXPECT_EQ(left(SweepProgress(work, 2, 1, earlier)), "60 s left");
  EXPECT_EQ(left(SweepProgress(work, 100, 1, earlier)),
            "30 s left");  // no more at once than there are
}

TEST(SweepProgress, CellsThatDoNotSayCountAsTheMeanOfThoseThatDo) {
  std::vector<PlannedWork> work;
  for (const int64_t tokens : {100, 300, 0})
    work.push_back({.cell = cell("x", "ppl-by-length", "m"), .tokens = tokens});
  Rates rates;
  rates.add(work[0].cell, 10, 1);
  const std::string text = SweepProgress(work, 1, 0, rates).text();
  EXPECT_NE(text.find("60 s left"), std::string::npos) << text;
}

}  // namespace
}  // namespace stuffed::cli
