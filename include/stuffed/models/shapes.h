// Published sizes without published weights: models of random values, for benchmarks and tests.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "stuffed/models/registry.h"

namespace stuffed {

/// "mamba2-1.3b", "rwkv6-7b", ..., and "FAMILY-tiny" of every family, which runs in milliseconds.
std::vector<std::string> shape_names();

/// The configuration of a shape; parameters undefined. Throws Usage, naming the known ones.
std::unique_ptr<RecurrentLM> shape_skeleton(const std::string& name);

/// Random weights on the device and in the types they run in, a function of (name, seed, device):
/// matrices uniform within 1/sqrt(fan in), norms 1, biases 0, gates normal with deviation 0.5.
/// Activations and states stay finite, and every term of the recurrence takes part; losses mean
/// nothing.
/// Errors  Usage for an unknown name; Memory
std::unique_ptr<RecurrentLM> random_model(const std::string& name,
                                          uint64_t seed,
                                          const LoadOptions& options = {});

}  // namespace stuffed
