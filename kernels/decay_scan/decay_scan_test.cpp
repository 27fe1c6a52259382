// Every implementation of the recurrence against the plain loops.
#include "stuffed/ops/decay_scan.h"

#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_cases.h"

namespace stuffed {
namespace {

using testing::bitwise_equal;
using testing::Case;
using testing::close;
using testing::Decay;
using testing::kDecays;
using testing::kVariants;
using testing::make_problem;
using testing::Problem;
using testing::Variant;

constexpr int64_t kLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000};

double bound_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 5e-3;
}

void expect_agreement(const Case& c) {
  const Problem p = make_problem(c);
  const ScanResult expected = ops::decay_scan(p.in, p.state, Impl::Reference);
  const ScanResult actual = ops::decay_scan(p.in, p.state, Impl::Chunked);
  EXPECT_TRUE(close(actual.y, expected.y, bound_of(c.type))) << c.name();
  EXPECT_TRUE(close(actual.state, expected.state, c.type == at::kDouble ? 1e-12 : 1e-5))
      << c.name();
  EXPECT_EQ(actual.y.scalar_type(), c.type);
}

TEST(DecayScan, ChunkedAgreesForAnyDecay) {
  for (const Variant variant : kVariants)
    for (const Decay decay : kDecays)
      for (const at::ScalarType type : {at::kFloat, at::kDouble})
        expect_agreement({.variant = variant, .decay = decay, .B = 2, .T = 150, .type = type});
}

TEST(DecayScan, ChunkedAgreesForAnyLength) {
  for (const Variant variant : kVariants)
    for (const int64_t T : kLengths)
      for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16})
        expect_agreement(
            {.variant = variant, .decay = Decay::Resets, .T = T, .H = 3, .type = type});
}

}  // namespace
}  // namespace stuffed
