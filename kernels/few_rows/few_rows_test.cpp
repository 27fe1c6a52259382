// A few rows times weights in blocks: every level of the instruction set against the product in
// f64, and which matrices are taken for blocks.
#include "kernels/few_rows/few_rows.h"

#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/few_rows/few_rows_cases.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

using kernels::Blocked;
using kernels::BlockedWeights;
using testing::bitwise_equal;
using testing::close;

bool holds(const Blocked& blocked, const Tensor& plain) {
  for (int64_t i = 0; i < blocked.weights.blocks(); ++i)
    if (!kernels::block_holds(blocked.weights, i, plain.const_data_ptr()))
      return false;
  return true;
}

Tensor sums_of(const kernels::FewRowsOps& ops, const BlockedWeights& weights, const Tensor& x) {
  const int64_t rows = x.size(0);
  Tensor wide = at::zeros({rows, weights.padded_in});
  wide.narrow(1, 0, weights.in).copy_(x);
  Tensor y = at::full({rows, weights.blocks() * 64}, NAN);
  for (int64_t i = 0; i < weights.blocks(); ++i) {
    const Tensor sums = at::full({rows, 64}, NAN);
    const int64_t begin = i * weights.block_elements();
    if (weights.is_bf16)
      ops.bf16(static_cast<const at::BFloat16*>(weights.data) + begin, weights.padded_in,
               wide.const_data_ptr<float>(), rows, sums.data_ptr<float>());
    else
      ops.f32(static_cast<const float*>(weights.data) + begin, weights.padded_in,
              wide.const_data_ptr<float>(), rows, sums.data_ptr<float>());
    y.narrow(1, i * 64, 64).copy_(sums);
  }
  return y.narrow(1, 0, weights.out);
}

TEST(FewRows, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("few_rows", {"fast"}, {});  // aten's needs weights that oneDNN packed
}

TEST(FewRows, EveryLevelOfTheInstructionSetAgrees) {
  at::manual_seed(1);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const auto& [out, in, padded] : {std::array<int64_t, 3>{1, 1, 2},
                                          {64, 256, 256},
                                          {65, 257, 288},
                                          {100, 33, 64},
                                          {130, 1536, 1536}}) {
      const Tensor plain = at::randn({out, in}).to(type);
      const Blocked blocked(plain, padded);
      for (const int64_t rows : {1, 2, 3, 4, 5, 8}) {
        const Tensor x = at::randn({rows, in});
        const Tensor expected = at::matmul(x.to(at::kDouble), plain.to(at::kDouble).t());
        for (const kernels::FewRowsOps& ops : kernels::few_rows_ops())
          EXPECT_TRUE(close(sums_of(ops, blocked.weights, x), expected, 1e-6))
              << out << " x " << in << ", " << rows << " rows";
      }
    }
}

TEST(FewRows, ARowDependsOnNoOther) {
  at::manual_seed(2);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Blocked blocked(at::randn({70, 300}).to(type), 320);
    const Tensor x = at::randn({8, 300});
    for (const kernels::FewRowsOps& ops : kernels::few_rows_ops()) {
      const Tensor together = sums_of(ops, blocked.weights, x);
      for (int64_t r = 0; r < 8; ++r)
        EXPECT_TRUE(bitwise_equal(together.narrow(0, r, 1),
                                  sums_of(ops, blocked.weights, x.narrow(0, r, 1))))
            << r;
    }
  }
}

TEST(FewRows, BlocksAreRecognisedByEveryWeight) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Tensor plain = at::randn({70, 33}).to(type);
    plain[3][5] = NAN;
    const Blocked blocked(plain, 64);
    EXPECT_TRUE(holds(blocked, plain)) << "a NaN is what it is";
    for (const auto& [n, i] : {std::pair<int64_t, int64_t>{0, 0}, {69, 32}, {63, 16}, {64, 31}}) {
      const Tensor other = plain.clone();
      other[n][i] += 1;
      EXPECT_FALSE(holds(blocked, other)) << n << ", " << i;
    }
    EXPECT_FALSE(holds(Blocked(plain.flip(0), 64), plain)) << "another order";
  }
  Blocked dirty(at::randn({64, 33}), 64);
  const Tensor plain = dirty.memory.view({64, 64}).t().narrow(1, 0, 33).contiguous();
  EXPECT_TRUE(holds(dirty, plain));
  dirty.memory[0][50][7] = 1;
  EXPECT_FALSE(holds(dirty, plain)) << "the padding is no zero";
}

}  // namespace
}  // namespace stuffed
