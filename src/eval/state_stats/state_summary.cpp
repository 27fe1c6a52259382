#include "state_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kCurveRows = 32;

/// Elementwise maximum; an undefined one counts for nothing.
void raise(Tensor& largest, const Tensor& value) {
  largest = largest.defined() ? at::maximum(largest, value) : value;
}

/// Largest values within and past the training length, over samples and documents.
struct Extremes {
  Tensor norm_within, variance_within;  // [L,H] f64
  Tensor variance_past, past_position;  // [L,H] f64, int64; undefined if no sample lies past it

  void add(const Tensor& norm, const Tensor& variance, int64_t stride, int64_t train_len) {
    const int64_t S = variance.size(0), within = std::min(S, train_len / stride);
    if (within > 0) {
      raise(norm_within, norm.narrow(0, 0, within).amax(0));
      raise(variance_within, variance.narrow(0, 0, within).amax(0));
    }
    if (S == within)
      return;
    const auto [value, index] = variance.narrow(0, within, S - within).max(0);
    const Tensor position = (index + (within + 1)) * stride;
    past_position = variance_past.defined() ? at::where((value > variance_past) | value.isnan(),
                                                        position, past_position)
                                            : position;
    raise(variance_past, value);
  }

  /// [L,H]
  Tensor ratio() const {
    if (!variance_past.defined())
      return at::full_like(variance_within, kNaN);
    const Tensor finite = variance_past.isfinite() & variance_within.isfinite();
    return at::where(finite, variance_past / variance_within,
                     at::full({}, kInfinity, variance_past.options()));
  }
};

io::json exploding_heads(const Extremes& extremes,
                         const Tensor& ratio,
                         const std::vector<int64_t>& layers,
                         const std::vector<int64_t>& heads,
                         int64_t top) {
  io::json table = io::json::array();
  if (!extremes.variance_past.defined())
    return table;
  const std::span ratios(ratio.const_data_ptr<double>(), static_cast<size_t>(ratio.numel()));
  std::vector<size_t> order;
  for (size_t i = 0; i < ratios.size(); ++i)
    if (!std::isnan(ratios[i]))
      order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return ratios[a] > ratios[b]; });
  order.resize(std::min(order.size(), static_cast<size_t>(top)));
  for (const size_t i : order) {
    const auto flat = static_cast<int64_t>(i);
    const auto at = [flat](const Tensor& x) { return x.view(-1)[flat]; };
    table.push_back(
        {{"layer", layers[i / heads.size()]},
         {"head", heads[i % heads.size()]},
         {"variance_within", io::number_or_null(at(extremes.variance_within).item<double>())},
         {"variance_past", io::number_or_null(at(extremes.variance_past).item<double>())},
         {"ratio", io::number_or_null(ratios[i])},
         {"largest_at_tokens", at(extremes.past_position).item<int64_t>()}});
  }
  return table;
}

/// Median over layers and heads of [S,L,H], NaN left out (the rank of an empty state): [S].
Tensor median_head(const Tensor& x) {
  return std::get<0>(at::nanmedian(x.flatten(1), 1));
}

/// At most kCurveRows samples of the first document, the last one included.
io::json curve_of(const NamedTensors& arrays, int64_t stride) {
  const std::map<std::string, Tensor> by_name(arrays.begin(), arrays.end());
  const Tensor& loss = by_name.at("loss.mean_nll");
  const Tensor& variance = by_name.at("state.variance");
  const Tensor median = median_head(variance), largest = variance.flatten(1).amax(1);
  const auto rank = by_name.find("state.rank");
  const Tensor ranks = rank == by_name.end() ? Tensor() : median_head(rank->second);
  const int64_t S = loss.size(0), step = (S + kCurveRows - 1) / kCurveRows;
  io::json curve = io::json::array();
  for (int64_t s = (S - 1) % step; s < S; s += step) {
    curve.push_back({{"position_tokens", (s + 1) * stride},
                     {"mean_nll_nats", io::number_or_null(loss[s].item<double>())},
                     {"variance_median", io::number_or_null(median[s].item<double>())},
                     {"variance_max", io::number_or_null(largest[s].item<double>())}});
    if (ranks.defined())
      curve.back()["rank_median"] = io::number_or_null(ranks[s].item<double>());
  }
  return curve;
}

bool all_finite(const NamedTensors& arrays) {
  for (const auto& [name, array] : arrays)
    if ((name == "state.norm" || name == "loss.mean_nll") && !array.isfinite().all().item<bool>())
      return false;
  return true;
}

}  // namespace

io::json alpha_by_layer(const Tensor& alpha) {
  const Tensor means = alpha.to(at::kDouble).mean(1);
  io::json layers = io::json::array();
  for (int64_t layer = 0; layer < means.size(0); ++layer)
    layers.push_back(io::number_or_null(means[layer].item<double>()));
  return layers;
}

StateSummary summarise_states(const StateArrays& arrays,
                              int64_t documents,
                              const std::vector<int64_t>& layers,
                              const std::vector<int64_t>& heads,
                              bool is_whole_model,
                              const StateStatsOptions& options) {
  StateSummary summary;
  Extremes extremes;
  bool finite = true;
  std::vector<Tensor> alphas;  // [L,H] of each document
  for (int64_t i = 0; i < documents; ++i) {
    const NamedTensors document = arrays.read_document(i);
    const std::map<std::string, Tensor> by_name(document.begin(), document.end());
    if (options.train_len)
      extremes.add(by_name.at("state.norm"), by_name.at("state.variance"), options.stride,
                   *options.train_len);
    finite = finite && all_finite(document);
    if (const auto alpha = by_name.find("alpha.sequence_mean"); alpha != by_name.end())
      alphas.push_back(alpha->second.clone());
    if (i == 0)
      summary.record["curve"] = curve_of(document, options.stride);
  }
  if (static_cast<int64_t>(alphas.size()) == documents)  // an older run's documents have none
    summary.record["alpha_mean_by_layer"] = alpha_by_layer(at::stack(alphas).mean(0));
  summary.record["exploding"] = nullptr;
  if (extremes.variance_within.defined()) {
    const Tensor ratio = extremes.ratio().contiguous();
    summary.record["exploding"] = exploding_heads(extremes, ratio, layers, heads, options.top);
    summary.arrays.emplace_back("variance_ratio", ratio);
    if (is_whole_model)
      summary.arrays.emplace_back("limits", extremes.norm_within.contiguous());
  }
  for (const io::json& head : summary.record["exploding"])
    finite = finite && !head.at("ratio").is_null();
  summary.record["finite"] = finite;
  return summary;
}

}  // namespace stuffed::eval
