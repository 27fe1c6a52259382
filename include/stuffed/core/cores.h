// How many processors there are for this process.
#pragma once
#include <cstdint>

namespace stuffed {

/// Those it may run on (taskset, a batch system's cpuset), and no more than the quota of its control
/// group lets it keep busy; at least 1.
int64_t usable_cores();

}  // namespace stuffed
