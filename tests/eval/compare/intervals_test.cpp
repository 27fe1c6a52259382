#include "src/eval/compare/intervals.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace stuffed::eval::comparing {
namespace {

TEST(CompareIntervals, StudentsQuantilesAreThoseOfTheTables) {
  for (const auto& [degrees, quantile] : {std::pair{1.0, 12.7062},
                                          {2.0, 4.30265},
                                          {4.0, 2.77645},
                                          {9.0, 2.26216},
                                          {30.0, 2.04227},
                                          {1e6, 1.95997}})
    EXPECT_NEAR(student_quantile(degrees), quantile, 6e-5 * quantile) << degrees;
}

TEST(CompareIntervals, OfAMeanIsStudents) {
  const Interval95 interval = interval_of_mean(std::vector<double>{1, 2, 3});
  // Standard error 1/sqrt(3), two degrees of freedom.
  EXPECT_NEAR(interval.low, 2 - 4.30265 / std::sqrt(3), 1e-4);
  EXPECT_NEAR(interval.high, 2 + 4.30265 / std::sqrt(3), 1e-4);
}

TEST(CompareIntervals, OfARatioWeighsLongDocumentsMore) {
  // 0.1 a token in both, however long they are: no spread is left.
  const Interval95 interval =
      interval_of_ratio(std::vector<double>{1, 100}, std::vector<double>{10, 1000});
  EXPECT_NEAR(interval.low, 0.1, 1e-12);
  EXPECT_NEAR(interval.high, 0.1, 1e-12);
  EXPECT_TRUE(std::isnan(interval_of_ratio(std::vector<double>{1}, std::vector<double>{1}).low));
}

TEST(CompareIntervals, OfSharesHasAWidthWhereNothingChanged) {
  const Interval95 same = interval_of_shares(10, 0, 0, 10);
  EXPECT_LT(same.low, 0);
  EXPECT_GT(same.high, 0);
  EXPECT_NEAR(same.low, -same.high, 1e-12);
  // Newcombe (1998), method 10, by hand: 36 of 50 and 25 of 50, 24 in both.
  const Interval95 fell = interval_of_shares(24, 12, 1, 13);
  EXPECT_LT(fell.high, 0) << "12 of 13 changes went one way";
  EXPECT_GT(fell.low, -0.36);
  EXPECT_TRUE(std::isnan(interval_of_shares(0, 0, 0, 0).low));
}

}  // namespace
}  // namespace stuffed::eval::comparing
