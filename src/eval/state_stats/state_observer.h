// Watches the updates of one stream and reduces each sampled state, and the inputs between two
// samples, to a few numbers per head.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "head_statistics.h"
#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/state_stats.h"

namespace stuffed::eval {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Numbers kept per sample and head, at most; for estimates of memory.
inline constexpr int64_t kMostHeadRows = 22;

/// For batches of one sequence, and updates that end at every multiple of the stride. An update
/// costs reductions on the device only; what waits there for the copy to the host is bounded.
class StateObserver : public Observer {
 public:
  /// `layers` and `heads`: what to record, as resolve_indices() gives them.
  StateObserver(const RecurrentLM& model,
                const StateStatsOptions& options,
                std::vector<int64_t> layers,
                std::vector<int64_t> heads);

  void on_update(Where where, const ScanInputs& in, const LayerState& after) override;

  /// Ends the sample at `position`, once every layer was updated to it. Computes ranks; the one
  /// place that waits for the GPU.
  void end_sample(int64_t position);

  /// What the stream gave, on the host, then starts anew. S samples:
  ///   [S,L,H] state.*, log_decay.*, alpha.mean, and mean and variance of q, k, v, dt, erase_read,
  ///   erase_write [S,L]   layer_mean and layer_variance of the same inputs histogram.counts
  ///   [P,L,H,bins], histogram.edges [L,H,bins+1] if positions were chosen
  NamedTensors take();

  /// What it knows between two updates that end a segment, and back.
  void save(Snapshot& snapshot) const;
  /// Errors  Input if what is there is not of this model and these options
  void load(const Snapshot& snapshot);

 private:
  using Rows = std::vector<std::pair<std::string, Tensor>>;
  /// Of one layer: sums since the last sample, and the rows of the sample that is being made.
  struct LayerSums {
    Tensor decay;                                       // [H,K|1] f64, nats since the last sample
    Tensor alpha = {};                                  // likewise, of exp of the decay
    Tensor decay_from_start;                            // likewise since the first token
    std::map<std::string, ChannelMoments> inputs = {};  // by name
    Tensor state = {};                                  // [H',K,V], of the heads recorded
    Rows head_rows = {};                                // [H']
    Rows layer_rows = {};                               // []
  };

  void sample(LayerSums& sums, const Tensor& state) const;
  Tensor chosen(const Tensor& per_head) const;
  void to_host();
  void load_layer(const Snapshot& snapshot, size_t slot);

  std::vector<int64_t> slots_;  // of each layer of the model; -1: not recorded
  int64_t stride_, bins_, tokens_ = 0;
  bool rank_;
  std::vector<int64_t> histogram_at_;
  at::Device device_;
  Tensor heads_;  // int64, on the model's device; undefined: all
  std::vector<LayerSums> layers_;
  std::vector<std::string> head_names_, layer_names_;
  std::vector<Tensor> head_pending_, layer_pending_;  // [L,rows,H], [L,rows] on the device
  std::vector<Tensor> head_done_, layer_done_;        // [s,L,rows,H], [s,L,rows] on the host
  std::vector<Tensor> histogram_states_;              // [L,H,K,V] on the host
};

}  // namespace stuffed::eval
