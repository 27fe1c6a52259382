// What a model would predict had it read only the last tokens: suffixes of a stream, fed as rows of
// one batch that grows.
#pragma once
#include <functional>
#include <vector>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// After `read` tokens of the stream, compare with its last n tokens alone, for each n.
struct SuffixPoint {
  int64_t read = 0;
  std::vector<int64_t> suffix_tokens;  // each 1..read
};

/// `points` different numbers from 1 to `longest`, about evenly spaced in the logarithm, ascending;
/// all there are if there are fewer.
std::vector<int64_t> log_spaced(int64_t longest, int64_t points);

/// Tokens that suffix_distances() feeds, rows counted.
int64_t tokens_to_feed(const std::vector<SuffixPoint>& points);

/// Half the sum of |p - q|: [R,vocab] and [vocab], f32 -> [R] f64.
Tensor total_variation(const Tensor& p, const Tensor& q);

/// Who watches a walk, and where it begins.
struct WalkWatch {
  std::function<void(int64_t fed)> on_progress = {};  // tokens fed so far, rows counted
  /// The walk could go on from here; it fills in what that takes.
  std::function<void(const std::function<void(Snapshot&)>& fill)> on_reached = {};
  const Snapshot* from = nullptr;  // where an earlier walk of the same points stopped
};

/// EffRem: for each point, the total variation [suffixes] (f64, CPU) between the next-token
/// distributions after the whole prefix and after its last n tokens, read from the empty state.
///
/// The stream is walked once. Row 0 reads it from the start; where a suffix begins, a fresh state
/// joins the batch, and it leaves behind the last point that needs it. At most `segment` tokens are
/// fed at a time, rows counted. Positions stay absolute, which matters to mitigations only.
///
/// Shapes  tokens [1,N+1], read <= N
/// Errors  Input if `watch.from` is of another walk
/// Cost    tokens_to_feed(): with log-spaced suffixes a small multiple of the stream
/// Source  arXiv:2507.02782
std::vector<Tensor> effective_remembrance(const RecurrentLM& model,
                                          const Recurrence& rule,
                                          const Tensor& tokens,
                                          const std::vector<SuffixPoint>& points,
                                          int64_t segment,
                                          const WalkWatch& watch = {});

}  // namespace stuffed::eval
