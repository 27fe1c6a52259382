#include "work_model.h"

#include <algorithm>

namespace stuffed::eval {

namespace {

constexpr double kBlock = 64;  // tokens multiplied together

/// Elements that one token's decay is given by.
double decay_elements(const ScanTerms& terms, double H, double K) {
  switch (terms.decay) {
    case DecayForm::PerHead:
    case DecayForm::Factored:
      return terms.has_v_scale ? 0 : H;  // the scale is the step from which the decay is made
    case DecayForm::PerChannel:
      return H * K;
    case DecayForm::Constant:
      return 0;
  }
  return 0;
}

double elements_of(const ScanTerms& terms, double H, double K, double V) {
  const double keys = terms.shares_keys ? K : H * K;
  const double streamed = keys * (terms.gate == GateKind::Forget ? 1 : 2) + 2 * H * V;
  return streamed + decay_elements(terms, H, K) + (terms.has_v_scale ? H : 0) +
         (terms.has_erase ? 2 * H * K : 0);
}

}  // namespace

Work scan_work(const ScanTerms& terms, const ScanWidths& widths, at::ScalarType dtype) {
  const auto H = static_cast<double>(widths.heads), K = static_cast<double>(widths.key_width),
             V = static_cast<double>(widths.value_width);
  Work work{.bytes = elements_of(terms, H, K, V) * static_cast<double>(c10::elementSize(dtype)),
            .flops = 0};
  // Scores q k^T within a block, scores times v, what the state gives to y, what is added to it.
  const double scores = 2 * kBlock * K, values = 2 * kBlock * V, states = 4 * K * V;
  if (terms.has_erase)
    // Two readers (q and the erased direction) and two writers make four score matrices, three
    // products with values, and twice the work on the state.
    work.flops = H * (4 * scores + 3 * values + 2 * states);
  else if (terms.decay != DecayForm::Factored)
    work.flops = (terms.shares_keys ? 1 : H) * scores + H * (values + states);
  return work;
}

double floor_seconds(double bytes, double flops, const Ceilings& ceilings) {
  return std::max(bytes / ceilings.copy_bytes_per_s, flops / ceilings.matmul_flops_per_s);
}

}  // namespace stuffed::eval
