#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>

#include "stuffed/core/rng.h"
#include "stuffed/eval/generate.h"

namespace stuffed::eval {

int64_t sample(const Tensor& logits, const SamplerOptions& options, int64_t position) {
  if (options.greedy)
    return logits.argmax().item<int64_t>();
  const auto [sorted, order] =
      logits.to(at::kCPU, at::kDouble).sort(/*stable=*/true, 0, /*descending=*/true);
  const double* value = sorted.const_data_ptr<double>();
  size_t kept = static_cast<size_t>(sorted.numel());
  if (options.top_k > 0)
    kept = std::min(kept, static_cast<size_t>(options.top_k));
  std::vector<double> weight(kept);
  for (size_t i = 0; i < kept; ++i)
    weight[i] = std::exp((value[i] - value[0]) / options.temperature);
  // Nucleus: of the tokens that top-k left, the fewest whose probability reaches top_p.
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double mass = 0;
  for (size_t i = 0; i < kept; ++i) {
    mass += weight[i];
    if (mass >= options.top_p * total) {
      kept = i + 1;
      break;
    }
  }
  const double target = Rng(options.seed, fmt::format("sample at {}", position)).uniform() * mass;
  double reached = 0;
  for (size_t i = 0; i < kept; ++i) {
    reached += weight[i];
    if (target < reached)
      return order[static_cast<int64_t>(i)].item<int64_t>();
  }
  return order[static_cast<int64_t>(kept) - 1].item<int64_t>();
}

}  // namespace stuffed::eval
