// Sees the updates as the mitigations have changed them, not as the model asks for them.
#pragma once
#include <memory>

#include "stuffed/recurrence/recurrence.h"

namespace stuffed {

class InnerObserver : public Observer {
 public:
  /// After `where.position` tokens a mitigation has multiplied every head's state by `factor` [B,H]
  /// f64. Must not wait for the GPU either.
  virtual void on_rescale(Where where, const Tensor& factor) = 0;
};

/// build_recurrence() with such an observer (not owned; null: none). What a sliding window leaves
/// out is no change of the inputs: see window_tokens().
std::shared_ptr<const Recurrence> build_recurrence(const RecurrenceOptions& options,
                                                   InnerObserver* inner_observer);

}  // namespace stuffed
