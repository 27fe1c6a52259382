// Parts of one call's inputs, as views: a stretch of tokens, some heads, some sequences.
#pragma once
#include <functional>

#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

/// `change` applied to every tensor that has a time axis, [B,T,H,...].
ScanInputs map_over_time(ScanInputs in, const std::function<Tensor(const Tensor&)>& change);

ScanInputs tokens_of(const ScanInputs& in, int64_t begin, int64_t end);
ScanInputs heads_of(const ScanInputs& in, int64_t begin, int64_t end);
ScanInputs sequences_of(const ScanInputs& in, int64_t begin, int64_t end);

/// The first token `count` times over, without a copy: for those who ask what a program takes.
ScanInputs repeat_token(const ScanInputs& in, int64_t count);

/// Another device, type or both; axes that were expanded are converted once and expanded again.
ScanInputs converted(ScanInputs in, const at::TensorOptions& to);
Tensor converted(const Tensor& x, const at::TensorOptions& to);

/// Bytes that a call must read and write at least: each distinct element of the inputs over time
/// once, y once. States and what has no time axis are not counted.
int64_t streamed_bytes(const ScanInputs& in);

}  // namespace stuffed::kernels
