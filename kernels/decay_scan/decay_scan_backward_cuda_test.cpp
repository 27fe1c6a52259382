// The CUDA backward pass against the reference's, in f64.
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_backward.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/ops/decay_scan.h"
#include "tests/support/scan_variants.h"

#if STUFFED_WITH_CUDA

namespace stuffed {
namespace {

using scan_cases::Case;
using scan_cases::Decay;
using scan_cases::kDecays;
using scan_cases::make_problem;
using scan_cases::Problem;
using scan_cases::variant_of;
using scan_cases::variants;
using testing::bitwise_equal;
using testing::close;

/// A problem with the gradients by its outputs.
struct Backward {
  Problem p;
  Tensor dy = {}, dstate = {};

  kernels::ScanGradients on_cpu() const {
    const auto f64 = [](const Tensor& x) { return kernels::converted(x, at::kDouble); };
    return kernels::decay_scan_backward_cpu(kernels::converted(p.in, at::kDouble), f64(p.state),
                                            f64(dy), f64(dstate));
  }
  kernels::ScanGradients on_gpu() const {
    const auto gpu = [](const Tensor& x) { return kernels::converted(x, at::kCUDA); };
    return kernels::decay_scan_backward_cuda(kernels::converted(p.in, at::kCUDA), gpu(p.state),
                                             gpu(dy), gpu(dstate));
  }
};

Backward backward_of(const Case& c) {
  Backward b{.p = make_problem(c)};
  b.dy = at::randn(b.p.in.v.sizes(), at::kFloat).to(c.type);
  b.dstate = at::randn(b.p.state.sizes(), at::kFloat);
  return b;
}

std::vector<std::pair<std::string, Tensor>> named(const kernels::ScanGradients& gradients) {
  std::vector<std::pair<std::string, Tensor>> all = {{"state", gradients.state}};
  visit_tensors(gradients.in,
                [&](const ScanField& field, const Tensor& x) { all.emplace_back(field.name, x); });
  return all;
}

void expect_agreement(const Case& c) {
  const Backward backward = backward_of(c);
  if (!kernels::decay_scan_backward_takes(backward.p.in))
    return;
  const auto expected = named(backward.on_cpu()), actual = named(backward.on_gpu()),
             again = named(backward.on_gpu());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto& [name, gradient] = actual[i];
    // What a bf16 gradient is rounded to; the log decay's is a sum of differences.
    const double bound = gradient.scalar_type() == at::kBFloat16 ? 4e-3 : 1e-5;
    EXPECT_TRUE(close(gradient.cpu(), expected[i].second, bound)) << c.name() << ' ' << name;
    EXPECT_TRUE(bitwise_equal(gradient, again[i].second)) << c.name() << ' ' << name;
  }
}

TEST(CudaDecayScanBackward, AgreesForAnyDecay) {
  for (const auto& variant : variants())
    for (const Decay decay : kDecays)
      expect_agreement({.variant = variant, .decay = decay, .B = 2, .T = 150});
}

TEST(CudaDecayScanBackward, AgreesForAnyLengthAndType) {
  for (const auto& variant : variants())
    for (const int64_t T : {1, 15, 16, 17, 63, 64, 65, 300})
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
        expect_agreement(
            {.variant = variant, .decay = Decay::Resets, .T = T, .H = 3, .type = type});
}

TEST(CudaDecayScanBackward, AgreesForAnyWidth) {
  for (const auto& variant : variants())
    for (const int64_t K : {1, 32, 33, 64, 100, 128})
      for (const int64_t V : {1, 31, 64, 65, 128})
        expect_agreement({.variant = variant, .T = 40, .H = 1, .K = K, .V = V});
}

TEST(CudaDecayScanBackward, AutogradFindsIt) {
  const Problem made = make_problem({.variant = variant_of("mamba2"), .B = 2, .T = 100});
  const auto gradient = [&](Impl impl) {
    const ScanInputs in = kernels::converted(made.in, at::kCUDA);
    const Tensor state = made.state.cuda().requires_grad_();
    EXPECT_EQ(ops::choose(in, state), Impl::Cuda);
    const ScanResult out = ops::decay_scan(in, state, impl);
    (out.y.sin().sum() + out.state.cos().sum()).backward();
    return state.grad();
  };
  EXPECT_TRUE(close(gradient(Impl::Auto), gradient(Impl::Aten), 1e-5));
}

}  // namespace
}  // namespace stuffed

#endif
