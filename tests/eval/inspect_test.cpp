#include "stuffed/eval/inspect.h"

#include <gtest/gtest.h>

#include "support/golden.h"

namespace stuffed {
namespace {

TEST(Inspect, CountsWhatLoadingCounts) {
  for (const char* name :
       {"mamba2-original", "mamba1-hf", "hgrn2-fla", "rwkv5-hf", "rwkv6-fla", "rwkv7-pth"}) {
    const auto model = load_model(testing::golden_path(name));
    const io::json found = eval::inspect(testing::golden_path(name), "");
    EXPECT_EQ(found["parameters"], model->config().parameters) << name;
    EXPECT_EQ(found["model_hash"], model->config().hash) << name;
    EXPECT_EQ(found["state"]["recurrence_elements"], model->recurrent_elements()) << name;
  }
}

TEST(Inspect, StateSizeFollowsBothRules) {
  // 3 layers, 8 heads of 16 x 16, 160 convolution channels of 3 kept columns.
  const io::json found = eval::inspect(testing::golden_path("mamba2-hf"), "");
  EXPECT_EQ(found["state"]["recurrence_elements"], 3 * 8 * 16 * 16);
  EXPECT_EQ(found["state"]["with_columns_elements"], 3 * (8 * 16 * 16 + 160 * 3));
  EXPECT_EQ(found["family"], "mamba2");
  EXPECT_EQ(found["layout"], "hf");
}

TEST(Inspect, FitsReproduceThePublishedCheckValues) {
  // arXiv:2410.07145: 370M (12.9 M elements) recalls 256K tokens.
  EXPECT_NEAR(eval::paper_fits(12'914'688).recall_tokens.value() / 1000, 259, 6);
  EXPECT_NEAR(eval::paper_fits(12'914'688).forget_tokens.value() / 1000, 62.3, 0.1);
  EXPECT_TRUE(eval::paper_fits(19'353'600).extrapolated);
  EXPECT_FALSE(eval::paper_fits(12'914'688).extrapolated);
}

TEST(Inspect, BelowTheFittedSizesNothingIsPredicted) {
  // The fits cross 0 at 0.864 M (forgetting) and 0.466 M elements (recall).
  EXPECT_FALSE(eval::paper_fits(860'000).forget_tokens.has_value());
  EXPECT_NEAR(eval::paper_fits(870'000).forget_tokens.value(), 30.6, 0.1);
  EXPECT_FALSE(eval::paper_fits(460'000).recall_tokens.has_value());
  EXPECT_TRUE(eval::paper_fits(470'000).recall_tokens.has_value());
  const io::json fits = eval::inspect(testing::golden_path("mamba2-hf"), "")["paper_fits"];
  EXPECT_TRUE(fits["forget_training_tokens"].is_null());
  EXPECT_TRUE(fits["recall_tokens"].is_null());
}

}  // namespace
}  // namespace stuffed
