#include "stuffed/ops/linear_cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"

namespace stuffed {
namespace {

struct LinearCrossEntropy : ::testing::Test {
  void SetUp() override {
    at::manual_seed(1);
    hidden = at::randn({2, 7, 16});
    head.weight = at::randn({40, 16});
    targets = at::randint(0, 37, {2, 7}, at::kLong);
  }
  Tensor expected() const {
    const Tensor logits = at::linear(hidden, head.weight).narrow(-1, 0, 37);
    return at::cross_entropy_loss(logits.flatten(0, 1), targets.flatten(), {}, at::Reduction::None)
        .view({2, 7});
  }
  Tensor hidden, targets;
  ops::Linear head;
};

TEST_F(LinearCrossEntropy, IgnoresPaddedColumnsForAnyBlockOfRows) {
  for (const int64_t rows : {1, 3, 14, 1024})
    EXPECT_TRUE(testing::close(ops::linear_cross_entropy(hidden, head, 37, targets, rows),
                               expected(), 1e-6))
        << rows;
}

TEST_F(LinearCrossEntropy, RecomputedGradientsAreThoseOfTheWholeGraph) {
  hidden.requires_grad_();
  head.weight.requires_grad_();
  const Tensor weights = at::randn({2, 7});
  (expected() * weights).sum().backward();
  const Tensor hidden_gradient = hidden.grad().clone(),
               weight_gradient = head.weight.grad().clone();
  hidden.mutable_grad() = Tensor();
  head.weight.mutable_grad() = Tensor();
  (ops::linear_cross_entropy(hidden, head, 37, targets, 5) * weights).sum().backward();
  EXPECT_TRUE(testing::close(hidden.grad(), hidden_gradient, 1e-6));
  EXPECT_TRUE(testing::close(head.weight.grad(), weight_gradient, 1e-6));
}

TEST_F(LinearCrossEntropy, NoTokensGiveNoLosses) {
  const Tensor nll =
      ops::linear_cross_entropy(hidden.narrow(1, 0, 0), head, 37, targets.narrow(1, 0, 0));
  EXPECT_EQ(nll.sizes(), (at::IntArrayRef{2, 0}));
}

}  // namespace
}  // namespace stuffed
