// Stopping this process as a signal would.
#pragma once

namespace stuffed {

/// For a process that is told to stop in another way than by a signal (see interrupt.h).
void ask_to_stop();

}  // namespace stuffed
