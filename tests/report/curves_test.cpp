#include "src/report/curves.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace stuffed::report {
namespace {

TEST(Thinned, KeepsEndsAndExtremesAndNoMoreThanAScreenShows) {
  std::vector<double> values(100000);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::sin(static_cast<double>(i));
  values[54321] = 9;
  values[77777] = -9;
  values[66666] = std::nan("");
  const std::vector<size_t> kept = thinned(values);
  EXPECT_TRUE(std::ranges::is_sorted(kept));
  EXPECT_LE(kept.size(), 402u + 1u);
  for (const size_t place : {0u, 99999u, 54321u, 77777u, 66666u})
    EXPECT_TRUE(std::ranges::binary_search(kept, place)) << place;
}

TEST(Thinned, LeavesShortCurvesWhole) {
  EXPECT_EQ(thinned({3, 1, 2}), (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(thinned({7}), std::vector<size_t>{0});
  EXPECT_TRUE(thinned({}).empty());
}

TEST(Spaced, IsEvenInTheLogarithmAndHasBothEnds) {
  EXPECT_EQ(spaced(1024, 11), (std::vector<size_t>{0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023}));
  EXPECT_EQ(spaced(3, 12), (std::vector<size_t>{0, 1, 2}));
  EXPECT_TRUE(spaced(0, 12).empty());
}

TEST(ArrayOf, HasSixDigitsAndNull) {
  EXPECT_EQ(array_of({2.0 / 3, std::nan("")}), io::json({0.666667, nullptr}));
}

/// What the bytes of `packed` stand for, as report.js reads them.
std::vector<double> unpacked(const io::json& packed) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  const std::string data = packed.at("data");
  for (size_t i = 0; i < data.size(); i += 4) {
    uint32_t group = 0;
    for (size_t j = 0; j < 4; ++j)
      group = group << 6 | static_cast<uint32_t>(data[i + j] == '=' ? 0 : digits.find(data[i + j]));
    for (size_t j = 0; j < 3 && data[i + j + 1] != '='; ++j)
      bytes.push_back(static_cast<char>(group >> (16 - 8 * j) & 255));
  }
  std::vector<double> values;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    const int q = static_cast<unsigned char>(bytes[i]) | static_cast<unsigned char>(bytes[i + 1])
                                                             << 8;
    if (q == 65535) {
      values.push_back(std::nan(""));
      continue;
    }
    const double low = packed.at("low"), high = packed.at("high");
    const double value = low + (high - low) * q / 65534;
    values.push_back(packed.at("log") == true ? std::pow(10, value) : value);
  }
  return values;
}

TEST(Packed, ComesBackWithinAStepOfItsScale) {
  const std::vector<double> values = {1e-6, 3.5, 1e6, std::numeric_limits<double>::infinity(), 20};
  const io::json log = packed(values, true);
  EXPECT_EQ(log.at("log"), true);
  const std::vector<double> back = unpacked(log);
  ASSERT_EQ(back.size(), values.size());
  EXPECT_TRUE(std::isnan(back[3]));
  for (const size_t i : {0u, 1u, 2u, 4u})
    EXPECT_NEAR(std::log10(back[i]), std::log10(values[i]), 12.0 / 65534);
}

TEST(Packed, IsLinearWhereALogarithmIsNotThere) {
  const io::json linear = packed({0, 1, -1}, true);
  EXPECT_EQ(linear.at("log"), false);
  const std::vector<double> back = unpacked(linear);
  EXPECT_NEAR(back[0], 0, 2.0 / 65534);
  EXPECT_NEAR(back[2], -1, 2.0 / 65534);
  EXPECT_TRUE(std::isnan(unpacked(packed({std::nan("")}, true))[0]));
}

}  // namespace
}  // namespace stuffed::report
