// Every family and layout against the upstream code's logits, losses and greedy continuation.
#include "support/golden.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace stuffed {
namespace {

using testing::close;
using testing::Golden;
using testing::golden_path;

class Goldens : public ::testing::TestWithParam<std::string> {};

TEST_P(Goldens, LogitsMatchUpstream) {
  at::NoGradGuard no_grad;
  const Golden golden(GetParam());
  const auto model = load_model(golden_path(GetParam()));
  State state = model->initial_state(1);
  const Tensor tokens = golden.get("tokens").to(at::kLong);
  const Tensor logits = testing::logits_of(*model, model->forward(tokens, state).hidden);
  const Tensor expected = golden.get("logits").narrow(1, 0, model->head().vocab);
  EXPECT_TRUE(close(logits, expected, 1e-5));
  RecordProperty("relative_rms", fmt::format("{:.3g}", testing::relative_rms(logits, expected)));
  EXPECT_TRUE(close(testing::segmented_nll(*model, tokens, 1000), golden.get("nll"), 1e-5));
}

TEST_P(Goldens, GreedyContinuationMatchesUpstream) {
  at::NoGradGuard no_grad;
  const Golden golden(GetParam());
  const auto model = load_model(golden_path(GetParam()));
  State state = model->initial_state(1);
  Tensor next = golden.get("tokens").to(at::kLong);
  std::vector<int64_t> continuation;
  for (int i = 0; i < 8; ++i) {
    const Tensor hidden = model->forward(next, state).hidden;
    next =
        testing::logits_of(*model, hidden.narrow(1, hidden.size(1) - 1, 1)).argmax(-1).view({1, 1});
    continuation.push_back(next.item<int64_t>());
  }
  EXPECT_TRUE(at::equal(at::tensor(continuation), golden.get("greedy").to(at::kLong).view(-1)));
}

TEST_P(Goldens, LongLossDoesNotDependOnTheSegment) {
  at::NoGradGuard no_grad;
  const Golden golden(GetParam());
  const auto model = load_model(golden_path(GetParam()));
  const Tensor tokens = golden.get("long_tokens").to(at::kLong), expected = golden.get("long_nll");
  for (const int64_t segment : {2047, 512, 37})
    EXPECT_TRUE(close(testing::segmented_nll(*model, tokens, segment), expected, 1e-5))
        << "segment " << segment;
}

TEST_P(Goldens, OneTokenAtATimeMatchesUpstream) {
  at::NoGradGuard no_grad;
  const Golden golden(GetParam());
  const auto model = load_model(golden_path(GetParam()));
  EXPECT_TRUE(close(testing::segmented_nll(*model, golden.get("long_tokens").to(at::kLong), 1),
                    golden.get("long_nll"), 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Layouts,
                         Goldens,
                         ::testing::ValuesIn(testing::goldens()),
                         testing::name_of_golden);

}  // namespace
}  // namespace stuffed
