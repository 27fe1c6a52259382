// Was this process asked to stop? Long commands look between two records, so that what is written
// stays whole.
#pragma once

namespace stuffed {

/// From now on the first SIGINT, SIGTERM or SIGUSR1 is only remembered; a second one of the same
/// kind kills.
void catch_signals();

bool interrupted();

/// Throws Error{Interrupted} if a signal came.
void stop_if_interrupted();

}  // namespace stuffed
