// A command that runs as a cell of a sweep tells the sweep how far it is.
#pragma once
#include <cstdint>

namespace stuffed::sweep {

/// The descriptor that a worker's commands write to.
inline constexpr const char* kOwnerVariable = "STUFFED_SWEEP_DESCRIPTOR";

/// So many tokens are fed. Nothing happens outside of a sweep, or if it was told a moment ago.
void tell_owner(int64_t tokens);

}  // namespace stuffed::sweep
