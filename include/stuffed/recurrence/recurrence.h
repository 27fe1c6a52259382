// The update of the recurrent memory, what may be wrapped around it, and who may watch.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/ops/decay_scan.h"
#include "stuffed/recurrence/state.h"

namespace stuffed {

struct Where {
  int layer;
  int64_t position;  // of the segment's first token
};

/// An update rule. Const: whatever it remembers lives in LayerState.
class Recurrence {
 public:
  virtual ~Recurrence() = default;
  /// Consumes a segment of T tokens: returns y [B,T,H,V], rebinds the layer's `recurrent` (and its
  /// slots in `extra`).
  virtual Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const = 0;
  /// Empty if the work is the same wherever in the stream the segment lies, given its shapes, and
  /// `recurrent` is touched by the scan alone. Then a step may be recorded and replayed, and may
  /// write over a state that is private. Else the reason why not.
  virtual std::string replay_obstacle() const {
    return "the update rule does not say that all its steps are alike";
  }
};

/// Sees the inputs of every update, with the log decay that a gate stands for, and the state after
/// it. Must not change them, nor wait for the GPU.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_update(Where where, const ScanInputs& in, const LayerState& after) = 0;
};

struct RecurrenceOptions {
  std::vector<std::string> mitigations;  // "name:key=value,key=value", applied in this order
  Impl impl = Impl::Auto;
  at::ScalarType state_dtype =
      at::kFloat;  // kBFloat16: the state is rounded after every segment, as a bf16 cache would
  Observer* observer = nullptr;  // not owned
  /// Reads the limits of clamp_norm, [L,H] Frobenius norms, from the file it names; this layer
  /// opens none.
  std::function<Tensor(const std::string& file)> read_limits = {};
};

/// Throws Usage for an unknown mitigation or a bad value, naming what is known.
std::shared_ptr<const Recurrence> build_recurrence(const RecurrenceOptions& options);

/// Throws Usage if a mitigation would take a stream of `tokens` one token at a time and it is too
/// long for that (clamp_norm with every=1 beyond 64K).
void check_cost(const std::vector<std::string>& mitigations, int64_t tokens);

/// The plain update with the automatic choice of implementation.
const Recurrence& plain_scan();

}  // namespace stuffed
