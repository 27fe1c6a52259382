// The table of heads that explode, on arrays whose answer is known.
#include "src/eval/state_stats/state_summary.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/tensor_file.h"
#include "support/files.h"
#include "support/journal.h"

namespace stuffed::eval {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A document of one layer: rows are samples, columns heads.
void write(const StateArrays& arrays,
           int64_t document,
           const std::vector<std::vector<double>>& rows) {
  std::vector<Tensor> samples;
  for (const std::vector<double>& row : rows)
    samples.push_back(at::tensor(row, at::kDouble).unsqueeze(0));
  const Tensor variance = at::stack(samples);  // [S,1,H]
  arrays.write_document(document, {{"state.variance", variance},
                                   {"state.norm", variance.sqrt()},
                                   {"loss.mean_nll", at::ones({variance.size(0)}, at::kDouble)}});
}

const StateStatsOptions kOptions = {.stride = 10, .train_len = 20, .top = 4};

TEST(StateSummary, ListsTheLargestRatiosOverAllDocuments) {
  const testing::TempFolder folder;
  const StateArrays arrays(folder / "a.safetensors", testing::begin_journal(folder.path()));
  write(arrays, 0, {{1, 2, 4}, {2, 2, 4}, {8, 3, 2}, {6, 3, 1}});
  write(arrays, 1, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 30, 1}});  // longer
  const StateSummary summary = summarise_states(arrays, 2, {7}, {0, 3, 5}, true, kOptions);
  const io::json& table = summary.record.at("exploding");
  ASSERT_EQ(table.size(), 3);
  EXPECT_EQ(table[0].dump(),
            "{\"head\":3,\"largest_at_tokens\":50,\"layer\":7,\"ratio\":15.0,"
            "\"variance_past\":30.0,\"variance_within\":2.0}");
  EXPECT_EQ(table[1].at("head"), 0);
  EXPECT_EQ(table[1].at("ratio"), 4.0);
  EXPECT_EQ(table[1].at("largest_at_tokens"), 30);
  EXPECT_EQ(table[2].at("ratio"), 0.5);
  EXPECT_EQ(summary.record.at("finite"), true);
  ASSERT_EQ(summary.arrays.size(), 2);
  EXPECT_TRUE(at::equal(summary.arrays[0].second, at::tensor({4.0, 15.0, 0.5}).unsqueeze(0)));
  EXPECT_EQ(summary.arrays[1].first, "limits");
  EXPECT_TRUE(at::equal(summary.arrays[1].second, at::tensor({2.0, 2.0, 4.0}).unsqueeze(0).sqrt()));

  arrays.finish(2, {}, {});
  const Tensor joined = io::TensorFile::open(arrays.path()).load("state.norm");
  EXPECT_EQ(joined.sizes(), (std::vector<int64_t>{2, 5, 1, 3}));
  EXPECT_TRUE(joined[0][4].isnan().all().item<bool>());
  EXPECT_TRUE(joined[0].narrow(0, 0, 4).isfinite().all().item<bool>());
}

TEST(StateSummary, WhatIsNotFiniteComesFirstAndAnEmptyHeadNowhere) {
  const testing::TempFolder folder;
  const StateArrays arrays(folder / "a.safetensors", testing::begin_journal(folder.path()));
  write(arrays, 0, {{1, 1, 0, 0}, {1, 1, 0, 0}, {5, 1, 0, 3}, {1, kNaN, 0, 1}});
  const StateSummary summary = summarise_states(arrays, 1, {0}, {0, 1, 2, 3}, false, kOptions);
  const io::json& table = summary.record.at("exploding");
  ASSERT_EQ(table.size(), 3);
  EXPECT_EQ(table[0].at("head"), 1);
  EXPECT_TRUE(table[0].at("ratio").is_null());
  EXPECT_EQ(table[0].at("largest_at_tokens"), 40);
  EXPECT_EQ(table[1].at("head"), 3);  // from nothing to something
  EXPECT_TRUE(table[1].at("ratio").is_null());
  EXPECT_EQ(table[2].at("ratio"), 5.0);
  EXPECT_EQ(summary.record.at("finite"), false);
  ASSERT_EQ(summary.arrays.size(), 1) << "limits are for whole models";
  EXPECT_EQ(summary.arrays[0].second[0][1].item<double>(), kInfinity);
}

TEST(StateSummary, WithoutASampleBehindTheTrainingLengthNothingExplodes) {
  const testing::TempFolder folder;
  const StateArrays arrays(folder / "a.safetensors", testing::begin_journal(folder.path()));
  write(arrays, 0, {{1, 2}, {2, 2}});
  const StateSummary summary = summarise_states(arrays, 1, {0}, {0, 1}, true, kOptions);
  EXPECT_TRUE(summary.record.at("exploding").empty());
  EXPECT_TRUE(summary.record.at("exploding").is_array());
  EXPECT_EQ(summary.arrays.back().first, "limits");
  StateStatsOptions no_training = kOptions;
  no_training.train_len.reset();
  const StateSummary plain = summarise_states(arrays, 1, {0}, {0, 1}, true, no_training);
  EXPECT_TRUE(plain.record.at("exploding").is_null());
  EXPECT_TRUE(plain.arrays.empty());
}

}  // namespace
}  // namespace stuffed::eval
