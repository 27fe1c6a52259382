// What trials at many lengths and depths say together: accuracy with intervals, effective length.
#pragma once
#include <string>
#include <vector>

#include "stuffed/io/journal.h"

namespace stuffed::eval {

/// What a record says of one trial.
struct TrialScore {
  int64_t length_tokens = 0, depth_index = 0;
  double real_depth = -1;         // of the needle, 0 to 1; below 0: it has no place
  int64_t distance_tokens = -1;   // from the needle to the prompt's end; below 0: it has no place
  bool is_cut = false;            // more tokens than are decoded: counts in no accuracy
  double score = 0;               // 0 to 1
  bool is_correct = false;        // all was found
  int is_exact = -1;              // below 0: the task has no such measure
  io::json answer_nll_nats = {};  // null: not finite, or unknown
};

/// What a run of trials asks for; `command` is for messages.
struct TrialCounts {
  int64_t lengths, depths, trials;
  int64_t part, parts;
};
/// Errors  Usage for none of a kind, more than can be planned, or a part without trials
void check_trial_counts(const char* command, const TrialCounts& counts);

/// Appends the summaries that are missing: "summary/len=N" per length, and "summary".
void append_trial_summaries(const std::vector<TrialScore>& trials,
                            int64_t depths,
                            io::Journal& journal);

/// Depths down, lengths across, darker where more was found; made from the summaries.
std::string heat_map(const std::vector<int64_t>& lengths_tokens,
                     int64_t depths,
                     const io::Journal& journal);

struct ProportionInterval {
  double low, high;
};
/// 95 % score interval of a proportion (Wilson 1927); [0,1] without trials. For a mean of scores
/// between 0 and 1 give their sum: no such scores vary more than ones and zeros of the same mean, so
/// the interval is wide enough.
ProportionInterval wilson(double successes, int64_t trials);

}  // namespace stuffed::eval
