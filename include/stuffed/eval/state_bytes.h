// How much memory the state of one sequence takes.
#pragma once
#include <cstdint>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// Bytes of one sequence's state, at most, while no more than `tokens` tokens are read: the model's
/// own, and what the rule's mitigations keep beside it. `window`: see window_tokens().
/// Cost    feeds one token, to see what the mitigations keep of it
int64_t state_bytes(const RecurrentLM& model,
                    const Recurrence& rule,
                    int64_t window,
                    int64_t tokens);

}  // namespace stuffed::eval
