// What the cases of operations are made of.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

namespace stuffed::kernels {

/// Inputs of one operation, by a name for reports.
template <class In>
using NamedInputs = std::vector<std::pair<std::string, In>>;

inline constexpr at::ScalarType kCaseTypes[] = {at::kFloat, at::kBFloat16};

/// Activations: normal numbers times `scale`.
inline at::Tensor drawn(at::IntArrayRef shape, at::ScalarType type, double scale = 1) {
  return (at::randn(shape) * scale).to(type);
}

}  // namespace stuffed::kernels
