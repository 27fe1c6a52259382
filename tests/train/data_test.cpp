#include "stuffed/train/data.h"

#include <fstream>
#include <set>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/io/passkey_text.h"

namespace stuffed::train {
namespace {

namespace fs = std::filesystem;

std::string text_of(const Tensor& row) {
  std::string text;
  for (int64_t i = 0; i < row.numel(); ++i)
    text.push_back(static_cast<char>(row[i].item<int64_t>()));
  return text;
}

class Data : public ::testing::Test {
 protected:
  Data() : folder_(fs::temp_directory_path() / fmt::format("stuffed-data-{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~Data() override { fs::remove_all(folder_); }

  /// A file of `size` bytes whose byte at i is first + i % 50.
  fs::path file(const std::string& name, int64_t size, int first) {
    std::ofstream out(folder_ / name, std::ios::binary);
    for (int64_t i = 0; i < size; ++i)
      out.put(static_cast<char>(first + i % 50));
    return folder_ / name;
  }

  fs::path folder_;
};

TEST_F(Data, DrawsAreAFunctionOfSeedAndStep) {
  const DataConfig config = {.text = {file("a", 5000, 0)},
                             .held_out = {},
                             .mix = {{Source::Text, 0.5}, {Source::Repeat, 0.5}},
                             .window = 64,
                             .seed = 3};
  const ByteData data(config), again(config);
  EXPECT_TRUE(data.windows(7, 8).equal(again.windows(7, 8)));
  EXPECT_FALSE(data.windows(7, 8).equal(data.windows(8, 8)));
  DataConfig other = config;
  other.seed = 4;
  EXPECT_FALSE(data.windows(7, 8).equal(ByteData(other).windows(7, 8)));
}

TEST_F(Data, TwinsSeeTheSameBytesInTheSameStep) {
  const ByteData data({.text = {file("a", 5000, 0)}, .held_out = {}, .window = 64});
  const Tensor longer = data.sequences(5, 4, 64), shorter = data.sequences(5, 4, 16);
  ASSERT_EQ(longer.sizes(), at::IntArrayRef({4, 65}));
  ASSERT_EQ(shorter.sizes(), at::IntArrayRef({16, 17}));
  // Inputs and targets alike: only where a sequence starts from an empty state differs.
  EXPECT_TRUE(longer.slice(1, 0, 64).flatten().equal(shorter.slice(1, 0, 16).flatten()));
  EXPECT_TRUE(longer.slice(1, 1).flatten().equal(shorter.slice(1, 1).flatten()));
}

TEST_F(Data, EveryStepHasItsShareOfEachSource) {
  const ByteData data({.text = {file("a", 5000, 200)},  // text is >= 200, repeats are printable
                       .held_out = {},
                       .mix = {{Source::Text, 0.7}, {Source::Repeat, 0.3}},
                       .window = 32});
  int64_t text = 0;
  for (int64_t step = 0; step < 100; ++step) {
    const Tensor first = data.windows(step, 5).select(1, 0);
    const int64_t now = first.ge(128).sum().item<int64_t>();
    EXPECT_TRUE(now == 3 || now == 4) << now;
    text += now;
  }
  EXPECT_NEAR(static_cast<double>(text), 350, 20);
}

TEST_F(Data, WindowsStayInsideTheirFile) {
  const ByteData data(
      {.text = {file("a", 100, 0), file("b", 100, 100)}, .held_out = {}, .window = 64});
  for (int64_t step = 0; step < 50; ++step)
    for (const Tensor& window : data.windows(step, 4).unbind(0)) {
      const Tensor from_b = window.ge(100);
      EXPECT_TRUE(from_b.all().item<bool>() || !from_b.any().item<bool>());
      EXPECT_TRUE(window.diff().remainder(50).eq(1).all().item<bool>());  // consecutive bytes
    }
}

TEST_F(Data, RepeatedStringsArePrintableAndPeriodic) {
  const ByteData data({.text = {},
                       .held_out = {},
                       .mix = {{Source::Repeat, 1}},
                       .repeat_min = 8,
                       .repeat_max = 64,
                       .window = 256});
  std::set<int64_t> periods;
  for (const Tensor& window : data.windows(0, 200).unbind(0)) {
    EXPECT_TRUE((window.ge(0x20) & window.le(0x7e)).all().item<bool>());
    int64_t period = 1;
    while (!window.slice(0, period).equal(window.slice(0, 0, window.numel() - period)))
      ++period;
    periods.insert(period);
  }
  EXPECT_EQ(*periods.begin(), 8);
  EXPECT_EQ(*periods.rbegin(), 64);
}

TEST_F(Data, PasskeyPromptsHoldTheirAnswer) {
  const ByteData data({.text = {}, .held_out = {}, .mix = {{Source::Passkey, 1}}, .window = 4096});
  for (const Tensor& window : data.windows(0, 20).unbind(0)) {
    const std::string text = text_of(window);
    ASSERT_TRUE(text.starts_with(io::passkey::kPrefix));
    const size_t needle = text.find("The passkey is ");
    ASSERT_NE(needle, std::string::npos);
    const std::string key = text.substr(needle + 15, 5);
    EXPECT_EQ(text.substr(needle, io::passkey::needle(key).size()), io::passkey::needle(key));
    const size_t question = text.find(io::passkey::kQuestion);
    if (question == std::string::npos || question + 50 > text.size())
      continue;  // cut off by the window
    EXPECT_EQ(text.substr(question + io::passkey::kQuestion.size(), 8), " " + key + ".\n");
  }
}

TEST_F(Data, ValidationIsFixedAndFromHeldOutText) {
  const ByteData data({.text = {file("a", 5000, 0)}, .held_out = {file("b", 5000, 100)}});
  const Tensor rows = data.validation(Source::Text, 4, 100);
  EXPECT_TRUE(rows.ge(100).all().item<bool>());
  EXPECT_TRUE(rows.equal(data.validation(Source::Text, 4, 100)));
  EXPECT_FALSE(rows[0].equal(rows[1]));
}

TEST_F(Data, RefusesWhatCannotBeDrawn) {
  const auto kind_of = [](const DataConfig& config) {
    try {
      const ByteData data(config);
    } catch (const Error& error) {
      return error.exit_code();
    }
    return 0;
  };
  EXPECT_EQ(kind_of({.text = {folder_ / "missing"}, .held_out = {}}), 3);
  EXPECT_EQ(kind_of({.text = {file("short", 512, 0)}, .held_out = {}}), 3);
  EXPECT_EQ(kind_of({.text = {}, .held_out = {}}), 2);
  EXPECT_EQ(kind_of({.text = {}, .held_out = {}, .mix = {{Source::Repeat, 0.5}}}), 2);
  EXPECT_THROW(parse_source("newlines"), Error);
}

}  // namespace
}  // namespace stuffed::train
