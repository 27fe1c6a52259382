#include "stuffed/ops/linear_cross_entropy.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "dispatch.h"
#include "kernels/common/recompute.h"
#include "kernels/nll/nll_cases.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::ops {

namespace {

// Memory above 32 MB glibc takes from the system anew each time, page by page, which costs a tenth
// of the product; below, and fewer than some 100 rows would make the product itself slower.
constexpr int64_t kCpuLogitBytes = 24 << 20;

int64_t cpu_rows(const Tensor& hidden, const Linear& head) {
  const int64_t row_bytes = head.out_features() * static_cast<int64_t>(hidden.element_size());
  return std::max<int64_t>(16, kCpuLogitBytes / row_bytes / 16 * 16);
}

using kernels::NllInputs;

constexpr Programs<NllInputs, Tensor, 4> kLosses = {{
    {Impl::Cuda, kernels::nll_cuda_takes, kernels::nll_cuda},
    {Impl::Fast, kernels::nll_fast_takes, kernels::nll_fast},
    {Impl::Aten, kernels::nll_aten_takes, kernels::nll_aten},
    {Impl::Reference, kernels::nll_cpu_takes, kernels::nll_cpu},
}};

std::vector<OpCase> cases_of_nll() {
  std::vector<OpCase> cases;
  add_cases(kLosses, kernels::nll_cases(), cases);
  return cases;
}

}  // namespace

extern const Op nll_op;
const Op nll_op = {.name = "nll",
                   .what = "losses of rows of logits",
                   .forms = forms_of(kLosses),
                   .cases = cases_of_nll};

Tensor linear_cross_entropy(
    const Tensor& hidden, const Linear& head, int64_t vocab, const Tensor& targets, int64_t rows) {
  const auto nll_of_rows = [head, vocab](const std::vector<Tensor>& in) {
    Linear layer = head;
    layer.weight = in[1];
    layer.bias = in[2];
    return std::vector<Tensor>{dispatch(
        nll_op, kLosses, {.logits = linear(in[0], layer), .targets = in[3], .vocab = vocab})};
  };
  const Tensor flat = hidden.flatten(0, 1), flat_targets = targets.flatten();
  if (flat.size(0) == 0)
    return at::zeros(targets.sizes(), hidden.options().dtype(at::kFloat));
  if (hidden.is_cpu())
    rows = std::min(rows, cpu_rows(hidden, head));
  const std::vector<Tensor> hidden_rows = flat.split(rows), target_rows = flat_targets.split(rows);
  std::vector<Tensor> nll;
  for (size_t i = 0; i < hidden_rows.size(); ++i) {
    if (hidden.is_cpu())
      leave_if_overdue();
    nll.push_back(kernels::recompute(nll_of_rows,
                                     {hidden_rows[i], head.weight, head.bias, target_rows[i]})[0]);
  }
  return at::cat(nll).view(targets.sizes());
}

}  // namespace stuffed::ops
