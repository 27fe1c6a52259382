#include "stuffed/ops/linear_cross_entropy.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>

#include "cpu_rows.h"
#include "kernels/common/recompute.h"
#include "kernels/common/rows.h"
#include "kernels/layer/layer_cuda.h"
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

/// Straight from the logits, without an f32 copy or a matrix of exponentials.
Tensor nll_of_logits(const Tensor& logits, int64_t vocab, const Tensor& targets) {
  Tensor nll = at::empty({logits.size(0)}, at::kFloat);
  const auto target = targets.accessor<int64_t, 1>();
  with_type(logits, [&]<class T>(T*) {
    at::parallel_for(0, logits.size(0), rows_per_thread(vocab), [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(vocab));
      for (int64_t i = begin; i < end; ++i) {
        kernels::load_row(logits.const_data_ptr<T>() + i * logits.stride(0), row.data(), vocab);
        nll.data_ptr<float>()[i] =
            kernels::log_sum_exp_row(row.data(), vocab) - row[static_cast<size_t>(target[i])];
      }
    });
  });
  return nll;
}

}  // namespace

Tensor linear_cross_entropy(
    const Tensor& hidden, const Linear& head, int64_t vocab, const Tensor& targets, int64_t rows) {
  const auto nll_of_rows = [head, vocab](const std::vector<Tensor>& in) {
    Linear layer = head;
    layer.weight = in[1];
    layer.bias = in[2];
    const Tensor raw = linear(in[0], layer);
    if (takes_cpu_rows({raw}))
      return std::vector<Tensor>{nll_of_logits(raw, vocab, in[3])};
    if (kernels::nll_cuda_takes(raw))
      return std::vector<Tensor>{kernels::nll_cuda(raw, vocab, in[3].contiguous())};
    const Tensor logits = raw.narrow(-1, 0, vocab).to(at::kFloat);
    return std::vector<Tensor>{at::logsumexp(logits, -1) -
                               logits.gather(-1, in[3].unsqueeze(-1)).squeeze(-1)};
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
