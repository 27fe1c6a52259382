// What the documents' arrays say together: limits for clamp_norm, heads that explode, and a few
// rows to look at.
#pragma once
#include "state_arrays.h"
#include "stuffed/eval/state_stats.h"

namespace stuffed::eval {

/// Mean over the heads of alpha [L,H], null where it is not finite: an array of L.
io::json alpha_by_layer(const Tensor& alpha);

struct StateSummary {
  io::json record;      // "curve", "exploding", "finite", "alpha_mean_by_layer"
  NamedTensors arrays;  // limits [L,H] and variance_ratio [L,H], f64, if there is a training length
};

/// Ratio of a head: its largest variance past the training length over its largest within, over all
/// documents and samples; infinite if one of them is not finite, NaN if both are 0. The table lists
/// the `options.top` largest. limits is the largest Frobenius norm within, and only there if every
/// layer and head of the model is recorded.
StateSummary summarise_states(const StateArrays& arrays,
                              int64_t documents,
                              const std::vector<int64_t>& layers,
                              const std::vector<int64_t>& heads,
                              bool is_whole_model,
                              const StateStatsOptions& options);

}  // namespace stuffed::eval
