// Timing on either device: repeats, spread, peak memory, clocks, and what the device can do at
// best.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "stuffed/io/json.h"

namespace stuffed::eval {

struct TimingOptions {
  int64_t warmup = 3, repeats = 20;
  bool flush = false;  // write a buffer larger than the caches before each repeat, outside the time
  std::function<void()> prepare = {};  // before each run, outside the time
};

/// Seconds of each repeat, sorted.
struct Timing {
  std::vector<double> seconds;
  double quantile(double q) const;  // of the sorted values, linear between neighbours
  double median() const { return quantile(0.5); }
};

/// Runs `body` warmup + repeats times. On a GPU CUDA events around the work that `body` queues on
/// the current stream; on the CPU a steady clock.
Timing time_runs(at::Device device,
                 const TimingOptions& options,
                 const std::function<void()>& body);

/// What this device reaches: bytes read plus written by a large copy, and FLOPs of a large matrix
/// product in `dtype`. Measured, not looked up: the floors of a result are floors of its machine.
struct Ceilings {
  double copy_bytes_per_s = 0, matmul_flops_per_s = 0;
};
Ceilings measure_ceilings(at::Device device, at::ScalarType dtype);

/// SM and memory clocks (MHz), power limit (W), driver and name of a GPU as nvidia-smi says now;
/// null on the CPU or where there is no nvidia-smi.
io::json read_clocks(at::Device device);

/// Since the last reset: tensors on a GPU; on the CPU the process's resident set.
void reset_peak_memory(at::Device device);
int64_t peak_memory_bytes(at::Device device);

}  // namespace stuffed::eval
