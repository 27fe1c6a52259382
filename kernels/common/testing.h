// Closeness for tests: the RMS of the error over the RMS of the reference, never a bare absolute
// tolerance.
#pragma once
#include <cstring>
#include <limits>
#include <string>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "kernels/common/closeness.h"

namespace stuffed::testing {

using kernels::relative_rms;

/// What an elementwise op may be off by: a rounding to bf16 is 2^-9 at most.
inline double bound_of(at::ScalarType type) {
  return type == at::kFloat ? 1e-6 : 4e-3;
}

/// On the CPU in f64; an undefined tensor stays undefined.
inline Tensor wide(const Tensor& x) {
  return x.defined() ? x.to(at::kCPU, at::kDouble) : x;
}

/// For EXPECT_TRUE(close(...)): on failure prints the error, the bound and the worst element.
inline ::testing::AssertionResult close(const Tensor& actual,
                                        const Tensor& expected,
                                        double bound) {
  const double error = relative_rms(actual, expected);
  if (error <= bound)
    return ::testing::AssertionSuccess();
  if (actual.sizes() != expected.sizes())
    return ::testing::AssertionFailure()
           << fmt::format("shape {} instead of {}", fmt::join(actual.sizes(), "x"),
                          fmt::join(expected.sizes(), "x"));
  const Tensor a = actual.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const Tensor e = expected.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const int64_t worst =
      (a - e).abs().nan_to_num(std::numeric_limits<double>::max()).argmax().item<int64_t>();
  return ::testing::AssertionFailure() << fmt::format(
             "relative RMS error {:.3g} > {:.3g}; worst at flat index {} of [{}]: {} instead of {}",
             error, bound, worst, fmt::join(actual.sizes(), "x"), a[worst].item<double>(),
             e[worst].item<double>());
}

/// Equal shape, type and bytes (NaNs of equal bits are equal).
inline ::testing::AssertionResult bitwise_equal(const Tensor& actual, const Tensor& expected) {
  if (actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type())
    return ::testing::AssertionFailure() << "shape or type differs";
  const Tensor a = actual.detach().to(at::kCPU).contiguous(),
               e = expected.detach().to(at::kCPU).contiguous();
  if (a.numel() == 0 || std::memcmp(a.data_ptr(), e.data_ptr(), a.nbytes()) == 0)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << fmt::format("bytes differ; relative RMS {:.3g}", relative_rms(a, e));
}

}  // namespace stuffed::testing
