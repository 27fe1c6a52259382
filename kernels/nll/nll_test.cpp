// Every form of the losses against the reference; the CUDA kernel through views.
#include "kernels/nll/nll.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_testing.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(Nll, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("nll", {"fast", "aten"}, {"cuda", "aten"});
}

#if STUFFED_WITH_CUDA

using testing::CudaLayer;
using testing::kTypes;
using testing::poison;
using testing::view;
using testing::wide;

TEST_F(CudaLayer, LossesOfRowsAgree) {
  for (const auto type : kTypes)
    for (const int64_t vocab : {1, 7, 256, 1000, 50277})
      for (const double scale : {1.0, 100.0}) {
        const Tensor logits = view(1, 9, (vocab + 15) / 8 * 8, type, scale)[0];
        const Tensor targets = at::randint(vocab, {9}, at::kLong).to(at::kCUDA);
        poison(logits);
        const Tensor f64 = wide(logits).narrow(1, 0, vocab);
        const Tensor expected =
            at::logsumexp(f64, 1) - f64.gather(1, targets.to(at::kCPU).unsqueeze(1)).squeeze(1);
        const Tensor actual =
            kernels::nll_cuda({.logits = logits, .targets = targets, .vocab = vocab});
        EXPECT_LT((wide(actual) - expected).abs().max().item<double>(),
                  2e-6 * (1 + f64.abs().max().item<double>()))
            << vocab;
      }
}

TEST_F(CudaLayer, LossesOfRowsTakeInfinitiesAsTheyAre) {
  const float inf = std::numeric_limits<float>::infinity();
  Tensor logits = at::randn({4, 1000});
  logits[0].narrow(0, 0, 999).fill_(-inf);  // one number left
  logits[1][5] = inf;
  logits[2][5] = NAN;
  logits[3].narrow(0, 1, 999).fill_(-1e30);
  const Tensor targets = at::tensor({999, 3, 3, 0}, at::kLong);
  const Tensor nll =
      kernels::nll_cuda(
          {.logits = logits.to(at::kCUDA), .targets = targets.to(at::kCUDA), .vocab = 1000})
          .cpu();
  EXPECT_EQ(nll[0].item<float>(), 0);
  EXPECT_EQ(nll[1].item<float>(), inf);
  EXPECT_TRUE(std::isnan(nll[2].item<float>()));
  EXPECT_EQ(nll[3].item<float>(), 0);
}

#endif

}  // namespace
}  // namespace stuffed
