#include "stuffed/train/schedule.h"

#include <cmath>
#include <numbers>

#include <gtest/gtest.h>

namespace stuffed::train {
namespace {

TEST(Schedule, WarmsUpHoldsAndDecays) {
  const Schedule schedule = {.peak = 8e-3, .last = 2e-3, .warmup = 4, .decay = 3, .steps = 12};
  const double expected[] = {2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3,
                             8e-3, 8e-3, 8e-3, 6e-3, 4e-3, 2e-3};
  for (int64_t step = 0; step < schedule.steps; ++step)
    EXPECT_NEAR(learning_rate(schedule, step), expected[step], 1e-15) << "step " << step;
}

TEST(Schedule, WithoutRampsIsConstant) {
  const Schedule schedule = {.peak = 1e-3, .last = 0, .warmup = 0, .decay = 0, .steps = 5};
  for (int64_t step = 0; step < 5; ++step)
    EXPECT_EQ(learning_rate(schedule, step), 1e-3);
}

TEST(Schedule, ACosineFallsFromThePeakToTheLast) {
  const Schedule schedule = {
      .peak = 3, .last = 1, .warmup = 2, .decay = 0, .steps = 11, .shape = Shape::Cosine};
  EXPECT_EQ(learning_rate(schedule, 0), 1.5);
  EXPECT_EQ(learning_rate(schedule, 1), 3);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 2), 3);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 6), 2);
  EXPECT_NEAR(learning_rate(schedule, 4), 2 + std::cos(std::numbers::pi / 4), 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 10), 1);
}

TEST(Schedule, NeverLeavesTheRangeOfItsRamps) {
  const Schedule schedule = {.peak = 1, .last = 0.1, .warmup = 50, .decay = 50, .steps = 100};
  for (int64_t step = 0; step < 100; ++step) {
    EXPECT_GT(learning_rate(schedule, step), 0);
    EXPECT_LE(learning_rate(schedule, step), 1);
  }
  EXPECT_EQ(learning_rate(schedule, 49), 1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 99), 0.1);
}

}  // namespace
}  // namespace stuffed::train
