// What the mitigation sliding_window means to those who count memory or weights.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "stuffed/recurrence/state.h"

namespace stuffed {

/// How many tokens, the last ones, are read at all: sliding_window's, or 0 if it is not there.
int64_t window_tokens(const std::vector<std::string>& mitigations);

/// Bytes of a layer's slots in `extra` at most, while no more than `tokens` tokens are read;
/// `first` is the layer's state after its first token. `window` as window_tokens() gives it.
int64_t extra_bytes(const LayerState& first, int64_t window, int64_t tokens);

}  // namespace stuffed
