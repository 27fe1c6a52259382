// From models to points: one per state size and training seed.
#pragma once
#include "src/eval/fit/fit_sources.h"
#include "src/eval/fit/model_facts.h"

namespace stuffed::eval::fitting {

/// One result, read.
struct Measured {
  std::string name, sha256;
  int64_t state_elements = 0;
  std::optional<int64_t> train_len_tokens = {};
  std::optional<uint64_t> seed = {};
  /// Forget: whether it collapses; null: the stream was too short to say.
  std::optional<bool> collapses = {};
  /// Recall: effective lengths by accuracy and by the ends of its interval, and what was tried.
  int64_t tokens = 0, low_tokens = 0, high_tokens = 0, shortest_tokens = 0, longest_tokens = 0;
};

/// By the rule of ppl-by-length, collapse_onset().
/// Errors  Input without a training length, or if the buckets are too wide for it
void read_collapse(const Source& source, Measured& out, io::json& record);

/// As the summary of passkey, but by `threshold`.
/// Errors  Input without a length that has an accuracy
void read_recall(const Source& source, double threshold, Measured& out, io::json& record);

/// The points of models that were told apart.
/// Errors  Input for two models of one size, seed and training length
std::vector<FitPoint> points_of(Law law, const std::vector<Measured>& models);

}  // namespace stuffed::eval::fitting
