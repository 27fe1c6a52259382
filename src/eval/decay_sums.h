// Decays summed over the tokens of one update.
#pragma once
#include "stuffed/ops/decay_scan.h"

namespace stuffed::eval {

/// Sums over the tokens of row 0, [H,K|1] f64; neither waits for a device.
Tensor log_decay_sum(const ScanInputs& in);  // nats
Tensor alpha_sum(const ScanInputs& in);      // of alpha = exp(log_decay)

}  // namespace stuffed::eval
