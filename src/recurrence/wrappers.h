// The recurrences that build_recurrence() stacks, innermost first: the plain scan, mitigations, the
// observer.
#pragma once
#include <memory>

#include "stuffed/recurrence/recurrence.h"

namespace stuffed::recurrence {

using Inner = std::shared_ptr<const Recurrence>;

Inner make_plain_scan(Impl impl, at::ScalarType state_dtype);
Inner make_observed(Inner inner, Observer* observer);

}  // namespace stuffed::recurrence
