// The update rule, watched behind its mitigations as well.
#pragma once
#include "src/cli/wiring.h"
#include "stuffed/recurrence/inner_observer.h"

namespace stuffed::cli {

/// open_rule() with observers (not owned; null: none) of the model's own inputs and of what the
/// mitigations make of them.
std::shared_ptr<const Recurrence> open_rule(const ModelOptions& options,
                                            const RecurrentLM& model,
                                            Observer* observer,
                                            InnerObserver* inner_observer);

}  // namespace stuffed::cli
