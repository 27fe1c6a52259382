// The laws of arXiv:2410.07145 from results: how long must a model with a state of some size be
// trained until it forgets, and how far back does it recall? docs/fit.md
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/io/journal.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

inline constexpr const char* kFitSchema = "stuffed.fit";
inline constexpr int kFitVersion = 1;

enum class Law {
  Forget,  // the shortest training length without collapse: a line in the state's size
  Recall,  // the longest prompt whose passkey is found: an exponential in it
};

/// What counts as state beside that of the recurrence.
enum class StateRule {
  Recurrence,     // "ssm": nothing
  CarriedInputs,  // "ssm+conv3": W-1 columns of a convolution of width W, or the shifted rows
  WholeWidth,     // "ssm+conv4": all W columns, or the shifted rows
};

struct FitOptions {
  Law law = Law::Forget;
  std::vector<std::filesystem::path> results = {};  // of one command; empty: the paper's points
  StateRule rule = StateRule::CarriedInputs;
  double threshold = 0.95;                   // of recall: the accuracy that a length must exceed
  std::vector<int64_t> training_seeds = {};  // of the results, in their order, where nothing else
                                             // says; fewer than results: of the first ones
};

/// What the provenance of a header says of the model, so that its results can be fitted without it:
/// "state", the elements of one sequence's state by their kinds, and, if `path` is the folder of a
/// training run, "training", its length and its seed.
io::json facts_of_model(const RecurrentLM& model, const std::filesystem::path& path);

/// Of models of one state size and one training seed.
struct FitPoint {
  int64_t state_elements = 0;
  std::optional<uint64_t> seed = {};  // null: unknown
  std::string censored = "no";        // "at most", "at least": `tokens` is a bound
  int64_t tokens = 0;
  /// Forget: the longest training length that collapses below it, and the shortest that does not.
  /// Recall: the effective length by the low and high ends of the accuracies' intervals.
  std::optional<int64_t> low_tokens = {}, high_tokens = {};
  std::vector<int64_t> collapse_beyond_tokens =
      {};  // forget: longer ones that collapse all the same
  std::vector<size_t> models = {};
};

struct FitData {
  std::vector<io::json> models = {};  // a record each
  std::vector<FitPoint> points = {};  // by size, then by seed
  std::vector<std::string> settings_that_differ =
      {};  // of the results' configs, such as "data.sha256"
};

/// The points: forget reads journals of ppl-by-length, each a model, recall those of passkey; a
/// merged sweep is as many as it has cells.
/// Errors  Input for a journal that is not finished, of another command, or does not say what is
///         needed while its model is not there either; for models of several families, or runs with
///         different mitigations; for two of one size, seed and training length
FitData read_fit_data(const FitOptions& options);

/// The curve of the greatest likelihood through the points, its intervals by bootstrap, and the
/// paper's beside it: the record "summary". `on_progress` is told of draws.
/// Errors  Input if fewer than three points are uncensored, or the curve is not determined
io::json fit_law(Law law,
                 const std::vector<FitPoint>& points,
                 int64_t draws,
                 uint64_t seed,
                 const std::function<void(int64_t done)>& on_progress);

/// A record of a point, and its key.
std::pair<std::string, io::json> record_of(const FitPoint& point);

}  // namespace stuffed::eval
