// What tests and benchmarks ask of the CUDA kernels beyond the contract.
#pragma once
#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

/// decay_scan_cuda with T cut into about `segments` that run side by side; 1 walks T in one go, 0
/// lets the cost model decide. Equal plans give equal bits, whatever else is in the batch.
ScanResult decay_scan_cuda(const ScanInputs& in, const Tensor& state, int segments);

/// DecayScanPlan::path of these inputs: which kernel takes them. 0 <= path.
int decay_scan_cuda_path(const ScanInputs& in, const Tensor& state);

/// The specification on the GPU in f64: token by token, for lengths that the CPU reference is too
/// slow for. K <= 128; y and state are f64.
ScanResult decay_scan_cuda_f64(const ScanInputs& in, const Tensor& state);

}  // namespace stuffed::kernels
