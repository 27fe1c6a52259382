// The scan with one decay per head on the CPU, forward only: chunks of tokens as products of small
// tiles that stay in registers and caches, where ATen's passes each go through all of memory.
#pragma once
#include <cstdint>

#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

/// Whether `decay_scan_tiled` takes such inputs: on the CPU, one decay per head, no bonus and no
/// erase term, f32 state, q, k and v all f32 or all bf16 with a dense last axis. Reads no data.
bool decay_scan_tiled_takes(const ScanInputs& in, const Tensor& state);

/// Sums in f32. Cost: a chunk of 64 tokens and its states stay in a core's cache; heads are spread
/// over threads.
ScanResult decay_scan_tiled(const ScanInputs& in, const Tensor& state);

}  // namespace stuffed::kernels
