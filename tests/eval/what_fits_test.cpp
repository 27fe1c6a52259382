#include "stuffed/eval/what_fits.h"

#include "stuffed/core/memory.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

TEST(BatchFit, TheLargestThatFitsIsFoundInFewTries) {
  for (int64_t most = 1; most <= 70; ++most)
    for (int64_t limit = 0; limit <= 70; ++limit) {
      int64_t tries = 0;
      const auto fits = [&](int64_t rows) {
        EXPECT_LE(rows, most);
        ++tries;
        return rows <= limit;
      };
      EXPECT_EQ(largest_that_fits(most, fits), std::max<int64_t>(1, std::min(most, limit)));
      EXPECT_LE(tries, 14);
    }
}

class BatchOfAModel : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<RecurrentLM> model_ = load_model(testing::golden_path(GetParam()));
  Feeding feeding_ = {.segment_tokens = 64, .state_bytes = model_->initial_state(1).bytes()};
  int64_t bytes(int64_t rows, int64_t tokens) const {
    Feeding feeding = feeding_;
    feeding.rows = rows;
    feeding.segment_tokens = tokens;
    return feeding_bytes(model_->config(), model_->dtype(), feeding);
  }
};

TEST_P(BatchOfAModel, WhatFitsTakesNoMoreThanIsFreeAndOneMoreWould) {
  for (const int64_t free : {bytes(1, 64), bytes(7, 64) + 1, bytes(100, 64) - 1}) {
    const int64_t rows = rows_that_fit(*model_, feeding_, free, 1000);
    EXPECT_LE(bytes(rows, 64), free);
    EXPECT_GT(bytes(rows + 1, 64), free);
  }
  EXPECT_EQ(rows_that_fit(*model_, feeding_, bytes(1, 64) - 1, 1000), 0);
  EXPECT_EQ(rows_that_fit(*model_, feeding_, bytes(50, 64), 20), 20);
  feeding_.segment_tokens = 8192;
  EXPECT_EQ(segment_that_fits(*model_, feeding_, bytes(1, 8192)), 4096);  // what failed is left out
  EXPECT_EQ(segment_that_fits(*model_, feeding_, bytes(1, 512)), 512);
  EXPECT_EQ(segment_that_fits(*model_, feeding_, bytes(1, 16) - 1), 0);
}

TEST_P(BatchOfAModel, AutoIsBoundedByWhatThereIsToFeedAndByHalfOfTheFreeMemory) {
  EXPECT_EQ(batch_that_fits(*model_, plain_scan(), feeding_, 1), 1);
  EXPECT_EQ(batch_that_fits(*model_, plain_scan(), feeding_, 5), 5);
  feeding_.state_bytes = free_memory_bytes(model_->device()) / 40;  // of which there are two each
  const int64_t found = batch_that_fits(*model_, plain_scan(), feeding_, 64);
  EXPECT_GE(found, 7);  // ten, but for what others on this machine do meanwhile
  EXPECT_LE(found, 13);
  feeding_.state_bytes *= 100;
  EXPECT_EQ(batch_that_fits(*model_, plain_scan(), feeding_, 64), 1);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         BatchOfAModel,
                         ::testing::Values("mamba2-hf", "rwkv7-pth"),
                         testing::name_of_golden);

/// On a GPU the batch is found by feeding it.
TEST(CudaBatchFit, WhatIsFoundCanBeFedAndMuchMoreCannot) {
  if (!at::hasCUDA())
    GTEST_SKIP() << "no GPU";
  const auto model =
      load_model(testing::golden_path("mamba2-hf"), {.dtype = at::kFloat, .device = at::kCUDA});
  const int64_t free = free_memory_bytes(model->device());
  Feeding feeding = {.segment_tokens = 16, .state_bytes = free / 40};
  const int64_t found = batch_that_fits(*model, plain_scan(), feeding, 64);
  EXPECT_GE(found, 30);
  EXPECT_LE(found, 38);  // of 40, without the sixteenth
  EXPECT_NEAR(static_cast<double>(free_memory_bytes(model->device())), static_cast<double>(free),
              0.02 * static_cast<double>(free));
  feeding.state_bytes = 2 * free;
  EXPECT_EQ(batch_that_fits(*model, plain_scan(), feeding, 64), 1);
}

}  // namespace
}  // namespace stuffed::eval
