#include "kernels/common/matrix_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"

namespace stuffed {
namespace {

struct Factors {
  const char* name;
  Tensor a, b;
};

std::vector<Factors> cases() {
  at::manual_seed(3);
  const Tensor square = at::randn({2, 3, 70, 70});
  return {{"one row", at::randn({1, 1, 64}), at::randn({64, 1000})},
          {"few rows", at::randn({19, 64}), at::randn({320, 64}).t()},
          {"several pieces", at::randn({2, 150, 96}), at::randn({1100, 96}).t()},
          {"a part of each row", at::randn({3, 50, 5, 32}).select(-2, 2), at::randn({32, 128})},
          {"many small", at::randn({2, 9, 4, 16, 8}), at::randn({2, 9, 4, 8, 24})},
          {"large, one matrix for all", at::randn({2, 1, 140, 16}), at::randn({2, 3, 16, 600})},
          {"transposed", square.transpose(-1, -2), square},
          {"f64", at::randn({130, 40}, at::kDouble), at::randn({40, 30}, at::kDouble)}};
}

TEST(MatrixProduct, IsTheProduct) {
  for (const auto& [name, a, b] : cases())
    EXPECT_TRUE(testing::close(kernels::matrix_product(a, b),
                               at::matmul(a.to(at::kDouble), b.to(at::kDouble)).to(a.scalar_type()),
                               1e-6))
        << name;
}

TEST(MatrixProduct, NumberOfThreadsChangesNoBit) {
  const int before = at::get_num_threads();
  for (const auto& [name, a, b] : cases()) {
    at::set_num_threads(1);
    const Tensor expected = kernels::matrix_product(a, b);
    for (const int threads : {2, 3, 4, 7}) {
      at::set_num_threads(threads);
      EXPECT_TRUE(at::equal(kernels::matrix_product(a, b), expected)) << name << ", " << threads;
    }
  }
  at::set_num_threads(before);
}

TEST(MatrixProduct, HasAGradient) {
  const Tensor a = at::randn({2, 5, 8}).requires_grad_(), b = at::randn({8, 3});
  kernels::matrix_product(a, b).sum().backward();
  EXPECT_TRUE(testing::close(a.grad(), b.sum(1).expand_as(a), 1e-6));
}

TEST(MatrixProduct, OfTrainedWeightsWithoutAGradient) {
  const Tensor a = at::randn({300, 64}), b = at::randn({64, 700}).requires_grad_();
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(testing::close(kernels::matrix_product(a, b), at::matmul(a, b), 1e-6));
}

TEST(MatrixProduct, NothingTimesSomethingIsNothing) {
  EXPECT_EQ(kernels::matrix_product(at::randn({0, 8}), at::randn({8, 3})).sizes(),
            at::IntArrayRef({0, 3}));
  EXPECT_TRUE(
      at::equal(kernels::matrix_product(at::randn({2, 0}), at::randn({0, 3})), at::zeros({2, 3})));
}

}  // namespace
}  // namespace stuffed
