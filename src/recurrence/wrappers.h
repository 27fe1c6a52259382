// The recurrences that build_recurrence() stacks, innermost first: the plain scan, mitigations, the
// observer.
#pragma once
#include <memory>

#include "stuffed/recurrence/inner_observer.h"

namespace stuffed::recurrence {

using Inner = std::shared_ptr<const Recurrence>;

/// What a mitigation may need when it is made.
struct Building {
  const RecurrenceOptions& options;
  InnerObserver* inner_observer;  // not owned; may be null
};

Inner make_plain_scan(Impl impl, at::ScalarType state_dtype);
Inner make_observed(Inner inner, Observer* observer);

}  // namespace stuffed::recurrence
