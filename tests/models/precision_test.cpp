// What bf16 costs in each family: nll against f32 over the goldens' long streams. The bound is the
// requirement's; the figures themselves are in tests/golden/README.md.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "support/relayout.h"

namespace stuffed {
namespace {

using testing::Golden;
using testing::Tensors;

constexpr double kBound = 2e-2;  // the requirement's
constexpr int64_t kTokens = 1025;

struct Figures {
  double mean;      // nats: how far apart the mean losses are
  double rms;       // nats: RMS of single tokens' differences
  double worst;     // nats: the largest of them
  double relative;  // RMS of the differences over the RMS of the losses
};

Figures compare(const Tensor& nll, const Tensor& reference) {
  const Tensor d = nll - reference;
  return {std::abs(d.mean().item<double>()), d.square().mean().sqrt().item<double>(),
          d.abs().max().item<double>(), testing::relative_rms(nll, reference)};
}

class Precision : public ::testing::TestWithParam<std::string> {};

TEST_P(Precision, Bf16StaysNearF32) {
  at::NoGradGuard no_grad;
  const Golden golden(GetParam());
  const auto path = testing::golden_path(GetParam());
  const Tensor tokens = golden.get("long_tokens").to(at::kLong).narrow(1, 0, kTokens);
  const auto nll = [&](const std::filesystem::path& where, at::ScalarType dtype) {
    return testing::segmented_nll(*load_model(where, {.dtype = dtype}), tokens, 512);
  };
  const Tensor reference = nll(path, at::kFloat);

  // Weights alone: matrices rounded as a bf16 checkpoint stores them, computed in f32.
  Tensors tensors = testing::tensors_of(GetParam());
  for (auto& [name, tensor] : tensors)
    if (tensor.dim() >= 2)
      tensor = tensor.to(at::kBFloat16);
  const testing::TempFolder folder;
  const Figures weights = compare(
      nll(testing::write_checkpoint(folder, tensors, testing::config_of(GetParam())), at::kFloat),
      reference);
  const Figures both = compare(nll(path, at::kBFloat16), reference);
  for (const auto& [what, found] : {std::pair{"weights", weights}, {"both", both}}) {
    fmt::print(
        "[ figures  ] {:<16} {:<8} mean {:.1e}, rms {:.1e}, worst {:.1e} nats, relative {:.1e}\n",
        GetParam(), what, found.mean, found.rms, found.worst, found.relative);
    EXPECT_LT(found.mean, kBound) << what;
    EXPECT_LT(found.relative, kBound) << what;
  }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         Precision,
                         ::testing::ValuesIn(testing::goldens()),
                         testing::name_of_golden);

}  // namespace
}  // namespace stuffed
