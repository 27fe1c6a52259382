// What a normalisation is, in plain loops: every other form must agree with this one.
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/norm/norm.h"

namespace stuffed::kernels {

namespace {

/// u over one part, in place: n of the header. `first` is the part's first channel.
void normalise_part(const NormInputs& in,
                    const Plain& weight,
                    const Plain& bias,
                    int64_t first,
                    double* part,
                    int64_t width) {
  double mean = 0, square = 0;
  for (int64_t c = 0; in.centre && c < width; ++c)
    mean += part[c] / static_cast<double>(width);
  for (int64_t c = 0; c < width; ++c)
    square += (part[c] - mean) * (part[c] - mean) / static_cast<double>(width);
  for (int64_t c = 0; c < width; ++c)
    part[c] =
        (part[c] - mean) / std::sqrt(square + in.eps) * weight[first + c] + bias.get(first + c, 0);
}

}  // namespace

bool norm_cpu_takes(const NormInputs& in) {
  return in.x.is_cpu();
}

Tensor norm_cpu(const NormInputs& in) {
  const Plain x(in.x), gate(in.gate), skip(in.skip), weight(in.weight), bias(in.bias),
      skip_weight(in.skip_weight);
  const int64_t D = in.x.size(-1), width = D / in.parts, rows = in.x.numel() / D;
  const int64_t share = skip_weight ? D / in.skip_weight.numel() : 1;  // channels of a skip weight
  const Tensor y = at::empty(in.x.sizes(), at::kDouble);
  for (int64_t row = 0; row < rows; ++row) {
    double* const u = y.mutable_data_ptr<double>() + row * D;
    const auto apply_gate = [&] {
      for (int64_t c = 0; c < D; ++c)
        u[c] *= plain_silu(gate[row * D + c]);
    };
    for (int64_t c = 0; c < D; ++c)
      u[c] = x[row * D + c] + (skip ? skip[row * D + c] * skip_weight[c / share] : 0);
    if (gate && in.gate_first)
      apply_gate();
    for (int64_t part = 0; weight && part < in.parts; ++part)
      normalise_part(in, weight, bias, part * width, u + part * width, width);
    if (gate && !in.gate_first)
      apply_gate();
  }
  return y.to(in.out.value_or(in.x.scalar_type()));
}

}  // namespace stuffed::kernels
