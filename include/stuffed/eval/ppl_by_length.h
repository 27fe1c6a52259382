// Loss by position in a long stream: one record per document, and a summary over all.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/progress.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

inline constexpr const char* kPplByLengthSchema = "stuffed.ppl_by_length";
inline constexpr int kPplByLengthVersion = 1;

struct PplByLengthOptions {
  int64_t segment = 8192;            // tokens fed at a time
  int64_t bucket = 1024;             // positions summed together
  int64_t batch = 1;                 // documents of one length fed side by side
  std::optional<int64_t> train_len;  // tokens; without it no onset is computed
  std::filesystem::path per_token;   // sidecar with every nll; empty: none
  io::json run;  // impl, dtype, state_dtype, segment_tokens: repeated in every record
};

/// Where the loss leaves the level it has inside the training length.
///   baseline = largest mean among buckets wholly inside train_len
///   onset    = start of the first whole bucket beyond it whose mean exceeds twice the baseline
/// Returns {"train_len_tokens","baseline_nll_nats","onset_tokens"}; the last is null if there is
/// none and "unknown" if the stream ended before 8 x train_len. A mean that is not finite exceeds
/// every bound.
/// Errors  Usage if bucket > train_len / 4
io::json collapse_onset(const std::vector<double>& mean_nll_nats,
                        int64_t bucket,
                        int64_t length,
                        int64_t train_len);

/// Scores every document that `results` does not hold yet, then appends the summary and the end
/// line; returns the summary. Every batch has options.batch rows, so a record depends on that
/// number (by rounding), but not on which documents share the batch. `tokenizer` may be null: then
/// no text is known and there are no bits per byte.
/// Errors  Interrupted; whatever source, model and results throw
io::json run_ppl_by_length(const RecurrentLM& model,
                           const Recurrence& rule,
                           io::TokenSource& source,
                           const io::Tokenizer* tokenizer,
                           const PplByLengthOptions& options,
                           io::Journal& journal,
                           Checkpoint& checkpoint,
                           const OnProgress& on_progress);

}  // namespace stuffed::eval
