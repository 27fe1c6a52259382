// What the recurrent state and the inputs of its updates are like along a long stream, per layer
// and head: one record per document, arrays in a sidecar, and a summary of the heads that explode.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/progress.h"
#include "stuffed/eval/state_dump.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

inline constexpr const char* kStateStatsSchema = "stuffed.state_stats";
inline constexpr int kStateStatsVersion = 1;

/// What the sidecar's tensors are, for --help.
extern const char* const kStateStatsArrays;

struct StateStatsOptions {
  int64_t segment = 8192;                 // tokens fed at a time
  int64_t stride = 1024;                  // the state is sampled after every multiple of it
  std::optional<int64_t> train_len = {};  // tokens; without it: no limits and no exploding heads
  std::vector<int64_t> layers = {};       // which are recorded, ascending; empty: all
  std::vector<int64_t> heads = {};        // likewise, in each of these layers
  bool rank = true;  // record the effective rank, an eigenvalue problem per head
  std::vector<int64_t> histogram_at = {};            // positions, multiples of `stride`
  int64_t histogram_bins = 39;                       // 40 edges, as in arXiv:2410.07145's code
  int64_t top = 20;                                  // heads in the table
  StateDump* dump = nullptr;                         // of one document; null: none; not owned
  std::filesystem::path arrays = {};                 // the sidecar
  std::map<std::string, std::string> metadata = {};  // of the sidecar
  io::json run = {};  // impl, dtype, state_dtype, segment_tokens: repeated in every record
};

/// Sorted, without repetitions; all of [0, count) if `chosen` is empty.
/// Errors  Usage naming `flag` if one is not below `count`
std::vector<int64_t> resolve_indices(std::vector<int64_t> chosen,
                                     int64_t count,
                                     std::string_view flag);

/// Refuses what cannot be sampled in `targets` tokens, or would not fit into memory; with 0
/// targets, what cannot be sampled in any number of them. `what` names the tokens.
/// Errors  Usage
void check_state_stats(const StateStatsOptions& options,
                       const ModelConfig& model,
                       std::string_view what,
                       int64_t targets,
                       int64_t documents);

/// Streams every document that `results` does not hold yet, then appends the summary, writes the
/// sidecar and the end line; returns the summary. Each document runs by itself, so its record and
/// its arrays depend on no other. Arrays of finished documents wait in ARRAYS.partial/. The stream
/// is cut at multiples of segment and of stride, and where a state is dumped. `make_rule` builds
/// the update around the observer it is given; inputs are recorded as the model asks for them,
/// before any mitigation, and states after it.
/// Cost  about 22 numbers (f64) per document, sample, layer and head, on the host; what is on
///         the device at a time is bounded
/// Errors  Usage if options contradict each other or the arrays would exceed 4 GiB; Interrupted;
///         whatever source, model and results throw
io::json run_state_stats(
    const RecurrentLM& model,
    const std::function<std::shared_ptr<const Recurrence>(Observer&)>& make_rule,
    io::TokenSource& source,
    const StateStatsOptions& options,
    io::Journal& journal,
    Checkpoint& checkpoint,
    const OnProgress& on_progress);

}  // namespace stuffed::eval
