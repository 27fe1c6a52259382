// What a model's short convolutions are like: statistics of parameters, not of a stream.
#pragma once
#include "state_observer.h"

namespace stuffed::eval {

/// conv.mean and conv.variance [L,C] f64: over the taps of each channel, the variance unbiased, of
/// the given layers. Nothing if the family has no convolution.
NamedTensors tap_statistics(const RecurrentLM& model, const std::vector<int64_t>& layers);

}  // namespace stuffed::eval
