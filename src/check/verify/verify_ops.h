// The parts of verify_kernels: the recurrence, and the operations whose rows have cases.
#pragma once
#include "stuffed/check/verify.h"
#include "stuffed/ops/op.h"

namespace stuffed::eval {

/// What a form's results may be off by: relative RMS against f64.
inline double output_bound(at::ScalarType dtype) {
  return dtype == at::kFloat ? 1e-5 : 5e-3;
}

/// The recurrence's programs on one device.
std::vector<Verdict> verify_scan(at::Device device,
                                 const VerifyKernelsOptions& options,
                                 const OnVerdict& on_verdict);

/// Every form of one operation on one device, but for the reference itself: a verdict for each form
/// and type that takes some of the cases.
std::vector<Verdict> verify_op(const ops::Op& op,
                               at::Device device,
                               const std::string& broken,
                               const OnVerdict& on_verdict);

}  // namespace stuffed::eval
