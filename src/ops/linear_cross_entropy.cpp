#include "stuffed/ops/linear_cross_entropy.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "recompute.h"

namespace stuffed::ops {

Tensor linear_cross_entropy(
    const Tensor& hidden, const Linear& head, int64_t vocab, const Tensor& targets, int64_t rows) {
  const auto nll_of_rows = [head, vocab](const std::vector<Tensor>& in) {
    Linear layer = head;
    layer.weight = in[1];
    layer.bias = in[2];
    const Tensor logits = linear(in[0], layer).narrow(-1, 0, vocab).to(at::kFloat);
    return std::vector<Tensor>{at::logsumexp(logits, -1) -
                               logits.gather(-1, in[3].unsqueeze(-1)).squeeze(-1)};
  };
  const Tensor flat = hidden.flatten(0, 1), flat_targets = targets.flatten();
  if (flat.size(0) == 0)
    return at::zeros(targets.sizes(), hidden.options().dtype(at::kFloat));
  const std::vector<Tensor> hidden_rows = flat.split(rows), target_rows = flat_targets.split(rows);
  std::vector<Tensor> nll;
  for (size_t i = 0; i < hidden_rows.size(); ++i)
    nll.push_back(
        recompute(nll_of_rows, {hidden_rows[i], head.weight, head.bias, target_rows[i]})[0]);
  return at::cat(nll).view(targets.sizes());
}

}  // namespace stuffed::ops
