#pragma once
#include "kernels/decay_scan/decay_scan.h"  // the contract, ScanInputs, ScanResult
#include "stuffed/ops/impl.h"

namespace stuffed::ops {

/// Checks the arguments, chooses one of the programs of kernels/decay_scan and runs it. Auto is
/// Cuda for tensors on a GPU that the kernels take, else Chunked; Chunked is Aten if a gradient is
/// wanted and on a GPU, and on the CPU Step for at most 8 tokens, Tiled for one decay per head, else
/// Aten. Cuda and Reference have backward passes of their own, but not through an erase term or a
/// factored decay; Aten has one for any inputs.
///
/// Errors  Internal if a shape, type, device or sign is against the contract; Unsupported if the
///         program named does not take these inputs: it never falls back to another
ScanResult decay_scan(const ScanInputs& in, const Tensor& state, Impl impl = Impl::Auto);

/// decay_scan that writes the new state over `state`, which must be dense and nobody else's. The
/// same bits.
Tensor decay_scan_in_place(const ScanInputs& in, const Tensor& state, Impl impl = Impl::Auto);

/// The inputs with the log decay, and the key, that their gate stands for in its place: f32, and of
/// the gate's type. Without a gate the inputs themselves. Differentiable. For whoever looks at a
/// decay: decay_scan makes it by itself where the program that runs does not take the gate.
ScanInputs with_log_decay(const ScanInputs& in);

/// The program that `decay_scan` runs for these inputs: neither Auto nor Chunked.
Impl choose(const ScanInputs& in, const Tensor& state, Impl impl = Impl::Auto);

}  // namespace stuffed::ops
