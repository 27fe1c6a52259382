// How much of a token a state still holds: log decays summed over intervals of positions, per layer
// and head.
#pragma once
#include <vector>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/recurrence/inner_observer.h"

namespace stuffed::eval {

/// Positions [begin, end) whose decays act on what was there before.
struct Interval {
  int64_t begin = 0, end = 0;
};

/// An observer of one stream: row 0 of the batch it sees, from the position it is told to begin at.
///
/// Of each interval in `sums`: the surviving weight exp(sum of log_decay), per key channel.
/// Of each interval in `lives`: how many tokens it takes until the weight, averaged over the key
/// channels, is below 1/2.
///
/// The average over key channels is the arithmetic mean of their weights: of a memory spread evenly
/// over the channels, the part that is left. (The geometric mean would call a head empty that keeps
/// one channel for ever and loses another at once.)
///
/// The decays are those of the updates it sees: the model's own, or as mitigations have changed
/// them (build_recurrence() with an inner observer). What clamp_norm rescales the state by counts
/// as a decay after the token; of a token that has left a sliding window nothing survives. With an
/// erase term (RWKV-7) the decays are the diagonal part of the transition only; erases() says so.
///
/// Beside them, over all tokens seen: the mean of the decay alpha itself, and exp of the mean of
/// its logarithm, which is what a long interval makes of it.
///
/// Cost  per token, head and key channel: one sum and exponential, and another one per 32 intervals
///       of `lives` that are under way; waits for no device
class DecayIntervals : public InnerObserver {
 public:
  /// Forgets all it saw. `window`: the last tokens that are read at all; 0: every token.
  void watch(int64_t layers,
             std::vector<Interval> sums,
             std::vector<Interval> lives,
             int64_t window = 0);
  void on_update(Where where, const ScanInputs& in, const LayerState& after) override;
  void on_rescale(Where where, const Tensor& factor) override;

  /// Over key channels, each [L,H,sums] f64 on the CPU. An empty interval has weight 1.
  struct Weights {
    Tensor mean, least, most;
  };
  Weights weights() const;
  /// Tokens of each interval after which the mean weight still was at least 1/2: [L,H,lives] int64
  /// on the CPU. The half-life is one more, unless that is all of the interval. -1: a decay was
  /// NaN.
  Tensor lived() const;
  bool erases() const { return erases_; }

  /// Over all tokens seen and the key channels, each [L,H] f64 on the CPU: the mean of alpha, and
  /// exp of the mean of log alpha. What rescales the state is no part of them.
  struct Alpha {
    Tensor mean, geometric;
  };
  Alpha alpha() const;

  /// What it saw so far, and back into one that watches the same intervals. `name` begins the names
  /// of what is saved.
  void save(Snapshot& snapshot, const std::string& name = "decays") const;
  /// Errors  Input if it is of other intervals
  void load(const Snapshot& snapshot, at::Device device, const std::string& name = "decays");

 private:
  struct Layer {
    Tensor rate;                     // [H,K] f64, nats per unit of step; undefined: totals are nats
    Tensor sum_totals, life_totals;  // [intervals,H,K|1] f64
    Tensor sum_nats, life_nats;      // [intervals,H,1] f64, what is in nats beside the totals
    Tensor lived;                    // [lives,H] int64
    Tensor alpha, log_alpha;         // [H,K|1] f64, sums over all tokens
    int64_t tokens = 0;              // seen
  };
  void begin(Layer& layer, const ScanInputs& in) const;
  void add(Layer& layer, int64_t position, const Tensor& decay, double offset) const;
  int64_t piece_end(int64_t position, int64_t last, int64_t row_elements) const;

  std::vector<Interval> sums_, lives_;
  std::vector<int64_t> cuts_;  // all begins and ends, ascending
  int64_t window_ = 0;
  std::vector<Layer> layers_;
  bool erases_ = false;
};

}  // namespace stuffed::eval
