// How long a model remembers: what its decays leave of a token, and how much old text still matters
// to its prediction.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/decay_intervals.h"
#include "stuffed/eval/progress.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

inline constexpr const char* kRetentionSchema = "stuffed.retention";
inline constexpr int kRetentionVersion = 1;

struct RetentionOptions {
  int64_t segment = 8192;                 // tokens fed at a time
  std::vector<int64_t> read_tokens = {};  // measured after so many tokens; empty: after the last
  std::vector<int64_t> suffixes = {};     // lengths in tokens; empty: `points` log-spaced ones
  int64_t points = 32;
  int64_t half_life_starts = 15;
  bool fewer_starts = true;  // if the first half of the stream has not so many tokens; else Usage
  std::filesystem::path arrays = {};  // sidecar of the arrays per head; empty: none
  /// Sees the decays as the mitigations change them; null without mitigations. Not owned.
  DecayIntervals* mitigated = nullptr;
  int64_t window = 0;  // tokens that sliding_window reads; 0: all
  io::json run = {};   // impl, dtype, state_dtype, segment_tokens: repeated in every record
};

/// Where half-lives begin, and for how long each is followed.
struct HalfLifePlan {
  std::vector<int64_t> starts;  // token positions, spread over the first half
  int64_t followed_tokens = 0;  // after each
};
HalfLifePlan plan_half_lives(int64_t tokens, int64_t starts);

/// Measures every document that `results` does not hold yet, then appends the summary and the end
/// line; returns the summary. `rule` must report to `decays` (see build_recurrence). Progress
/// counts tokens fed, suffixes included.
///
/// For each number T of tokens read and each suffix of n tokens, token T-n being its first:
///   surviving_weight  what the decays of the n - 1 tokens behind it leave of token T-n in the
///                     state, exp(sum of log_decay), averaged over the key channels of a head
///   effrem            total variation between the predictions from x_0..x_{T-1} and from the last
///                     n tokens alone
/// Per head: half_life_tokens, the median over starting positions of the number of tokens after
/// which the weight is below 1/2 (for an even number of them the upper one of the middle two). All
/// are followed for equally long; if the median does not end by then it is censored: null, and at
/// least `followed_tokens`. (Null, too, if decays are NaN; then `finite` is false.) And alpha, the
/// decay per token over all tokens read: its mean, and exp of the mean of its logarithm.
///
/// All these are of the model's own decays. With options.mitigated the record holds them once more
/// as the mitigations have them, under the same names with "mitigated" in front; surviving weights
/// and half-lives then take in what clamp_norm rescales and what leaves a sliding window.
///
/// Sidecar  surviving_weight[/least,/most].read=T [documents,L,H,suffixes] f32,
///          half_life_tokens [documents,L,H] f32 (NaN: censored), half_life_tokens/median [L,H]
///          over documents, alpha.mean and alpha.geometric [documents,L,H] f64; with
///          options.mitigated the same names behind "mitigated/". It gathers in one partial file
///          per document, so that a killed run goes on where its journal does.
/// Errors   Input if documents end at different lengths and no read_tokens are given, or one is
///          shorter than these; Interrupted; whatever source, model and results
///          throw
io::json run_retention(const RecurrentLM& model,
                       const Recurrence& rule,
                       DecayIntervals& decays,
                       io::TokenSource& source,
                       const RetentionOptions& options,
                       io::Journal& journal,
                       Checkpoint& checkpoint,
                       const OnProgress& on_progress);

}  // namespace stuffed::eval
