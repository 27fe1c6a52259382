#include "head_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"

namespace stuffed::eval {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// n / (n-1): from a variance divided by n to the unbiased one.
double bessel(int64_t n) {
  return n > 1 ? static_cast<double>(n) / static_cast<double>(n - 1) : kNaN;
}

void accumulate(Tensor& sum, const Tensor& term) {
  sum = sum.defined() ? sum + term : term;
}

std::vector<double> edges_of(std::span<const float> values, int64_t bins) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const float value : values)
    if (std::isfinite(value)) {
      low = std::min<double>(low, value);
      high = std::max<double>(high, value);
    }
  if (low > high)  // no element is finite
    return std::vector<double>(static_cast<size_t>(bins) + 1, kNaN);
  if (low == high) {
    low -= 0.5;
    high += 0.5;
  }
  std::vector<double> edges(static_cast<size_t>(bins) + 1, high);
  for (int64_t i = 0; i < bins; ++i)
    edges[static_cast<size_t>(i)] =
        low + (high - low) * static_cast<double>(i) / static_cast<double>(bins);
  return edges;
}

void count(std::span<const float> values, std::span<const double> edges, int64_t* counts) {
  const auto last = static_cast<int64_t>(edges.size()) - 2;
  for (const float value : values)
    if (std::isfinite(value))
      ++counts[std::min<int64_t>(
          last, std::upper_bound(edges.begin(), edges.end(), double{value}) - edges.begin() - 1)];
}

}  // namespace

std::vector<Tensor> state_statistics(const Tensor& state) {
  const Tensor x = state.flatten(1).to(at::kDouble);  // [H,K*V]
  const Tensor squares = x.square();
  return {x.mean(1),
          at::var(x, at::OptionalIntArrayRef(1), 1),
          squares.mean(1).sqrt(),
          x.amax(1),
          x.abs().amax(1),
          std::get<0>(at::median(x, 1)),
          squares.sum(1).sqrt()};
}

Tensor effective_rank(const Tensor& state) {
  const Tensor x = state.to(at::kDouble);
  const Tensor largest = x.abs().amax({-2, -1}, true);
  const Tensor usable = largest.isfinite() & (largest > 0);  // LAPACK refuses NaN
  const Tensor nothing = at::full({}, kNaN, x.options());
  const Tensor has_rank = usable.squeeze(-1).squeeze(-1);
  if (std::min(x.size(-2), x.size(-1)) == 1)
    return at::where(has_rank, at::ones({}, x.options()), nothing);
  const Tensor scaled = at::where(usable, x / largest, at::zeros({}, x.options()));
  const Tensor gram = x.size(-2) >= x.size(-1) ? kernels::matrix_product(scaled.mT(), scaled)
                                               : kernels::matrix_product(scaled, scaled.mT());
  const Tensor singular = at::linalg_eigvalsh(gram).clamp_min(0).sqrt();
  const Tensor shares = singular / singular.sum(-1, true);
  return at::where(has_rank, (-at::xlogy(shares, shares).sum(-1)).exp(), nothing);
}

void ChannelMoments::add(const Tensor& x) {
  constexpr int64_t kElements = int64_t{1} << 23;  // 64 MB of f64 at a time
  const bool shared = x.size(2) > 1 && x.stride(2) == 0;
  const Tensor rows = (shared ? x.narrow(2, 0, 1) : x).select(0, 0);  // [T,H|1,N]
  const int64_t T = rows.size(0), row = rows.size(1) * rows.size(2);
  const int64_t step = std::max<int64_t>(1, kElements / std::max<int64_t>(1, row));
  for (int64_t begin = 0; begin < T; begin += step) {
    const Tensor block = rows.narrow(0, begin, std::min(step, T - begin)).to(at::kDouble);
    const auto [variance, mean] = at::var_mean(block, at::OptionalIntArrayRef(-1), 0);  // [T,H|1]
    accumulate(mean_, mean.sum(0));
    accumulate(variance_, variance.sum(0));
    accumulate(between_, at::var(mean, at::OptionalIntArrayRef(-1), 0).sum());
  }
  tokens_ += T;
  heads_ = x.size(2);
  channels_ = x.size(3);
}

Tensor ChannelMoments::pack() const {
  const auto row = [&](double x) { return at::full_like(mean_, x); };
  return at::stack({mean_, variance_, between_.expand_as(mean_), row(static_cast<double>(tokens_)),
                    row(static_cast<double>(heads_)), row(static_cast<double>(channels_))});
}

ChannelMoments ChannelMoments::unpack(const Tensor& packed, at::Device device) {
  const Tensor here = packed.to(device, packed.scalar_type(), false, /*copy=*/true);
  ChannelMoments moments;
  moments.mean_ = here[0];
  moments.variance_ = here[1];
  moments.between_ = here[2][0];
  moments.tokens_ = packed[3][0].item<int64_t>();
  moments.heads_ = packed[4][0].item<int64_t>();
  moments.channels_ = packed[5][0].item<int64_t>();
  return moments;
}

ChannelMoments::Result ChannelMoments::result() const {
  const auto tokens = static_cast<double>(tokens_);
  const int64_t all = mean_.size(0) * channels_;
  return {.mean = (mean_ / tokens).expand({heads_}),
          .variance = (variance_ * (bessel(channels_) / tokens)).expand({heads_}),
          .layer_mean = mean_.mean() / tokens,
          .layer_variance = (variance_.mean() + between_) * (bessel(all) / tokens)};
}

Histograms joint_histograms(const Tensor& states, int64_t bins) {
  const int64_t P = states.size(0), L = states.size(1), H = states.size(2),
                elements = states.size(3) * states.size(4);
  // One head's elements at all positions lie together.
  const Tensor x = states.permute({1, 2, 0, 3, 4}).to(at::kFloat).contiguous();
  Histograms result{.counts = at::zeros({L, H, P, bins}, at::kLong),
                    .edges = at::empty({L, H, bins + 1}, at::kDouble)};
  for (int64_t head = 0; head < L * H; ++head) {
    const std::span values(x.const_data_ptr<float>() + head * P * elements,
                           static_cast<size_t>(P * elements));
    const std::vector<double> edges = edges_of(values, bins);
    std::copy(edges.begin(), edges.end(), result.edges.data_ptr<double>() + head * (bins + 1));
    for (int64_t p = 0; p < P; ++p)
      count(values.subspan(static_cast<size_t>(p * elements), static_cast<size_t>(elements)), edges,
            result.counts.data_ptr<int64_t>() + (head * P + p) * bins);
  }
  result.counts = result.counts.permute({2, 0, 1, 3}).contiguous();
  return result;
}

}  // namespace stuffed::eval
