// What only a GPU is fast and large enough for: a million tokens, and offsets past 2^31 and 2^32.
#pragma once
#include "stuffed/check/verify.h"

namespace stuffed::eval {

/// The CUDA kernels, bf16, scalar and vector decay: a million tokens against f64, and rows of a
/// wide parent that span more than 2^31 and 2^32 elements against the same rows packed. `broken`:
/// the kernel's results are made 1 % too large first (for tests).
std::vector<Verdict> verify_huge(at::Device device, bool broken, const OnVerdict& on_verdict);

}  // namespace stuffed::eval
