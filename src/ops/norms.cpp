#include "stuffed/ops/norms.h"

#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/layer/layer_cuda.h"
#include "stuffed/core/gradient.h"
#include "stuffed/ops/activations.h"

namespace stuffed::ops {

namespace {

/// x [n,D], gate [n,D] and skip.x [n,D] (or undefined), all with dense rows; the norm over each of
/// `groups` parts of a row. y may be x: a row is read whole before it is written.
template <class In, class Out>
void normalise_rows(const Tensor& x,
                    const Tensor& gate,
                    const Skip& skip,
                    const Tensor& weight,
                    int64_t groups,
                    double eps,
                    bool norm_before_gate,
                    Tensor& y) {
  const int64_t D = x.size(1), width = D / groups;
  at::parallel_for(0, x.size(0), rows_per_thread(D), [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(D)), z(row.size()), past(row.size());
    std::vector<float> past_weight;
    for (int64_t i = 0; skip.x.defined() && i < skip.weight.numel(); ++i)
      past_weight.insert(past_weight.end(), row.size() / static_cast<size_t>(skip.weight.numel()),
                         skip.weight.const_data_ptr<float>()[i]);
    for (int64_t i = begin; i < end; ++i) {
      kernels::load_row(x.const_data_ptr<In>() + i * x.stride(0), row.data(), D);
      if (skip.x.defined()) {
        kernels::load_row(skip.x.const_data_ptr<In>() + i * skip.x.stride(0), past.data(), D);
        kernels::multiply_add_row(past.data(), past_weight.data(), row.data(), D);
      }
      if (gate.defined())
        kernels::load_row(gate.const_data_ptr<In>() + i * gate.stride(0), z.data(), D);
      if (gate.defined() && !norm_before_gate)
        kernels::gate_row(z.data(), row.data(), D);
      for (int64_t group = 0; weight.defined() && group < groups; ++group) {
        float* part = row.data() + group * width;
        const double mean = kernels::sum_squares_row(part, width) / static_cast<double>(width);
        kernels::multiply_row(weight.const_data_ptr<float>() + group * width,
                              static_cast<float>(1 / std::sqrt(mean + eps)), part, width);
      }
      if (gate.defined() && norm_before_gate)
        kernels::gate_row(z.data(), row.data(), D);
      kernels::store_row(row.data(), y.data_ptr<Out>() + i * D, D);
    }
  });
}

/// The rows of x as a matrix without a copy, where its strides allow; undefined otherwise.
Tensor as_rows(const Tensor& x) {
  if (x.is_contiguous())
    return x.view({-1, x.size(-1)});
  if (x.dim() == 3 && (x.size(0) == 1 || x.stride(0) == x.stride(1) * x.size(1)))
    return x.as_strided({x.size(0) * x.size(1), x.size(2)}, {x.stride(1), x.stride(2)});
  return {};
}

/// x [...,n] f32 -> x / rms, over the last axis.
Tensor divide_by_rms(const Tensor& x, double eps) {
  return x * (x.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

/// Whether the CUDA kernel takes these; undefined tensors are absent.
bool takes_cuda(const kernels::NormTensors& in) {
  const auto present = [&](const Tensor& x) { return x.defined() ? x : in.x; };
  return kernels::layer_cuda_takes({in.x, present(in.gate), present(in.skip)}) &&
         kernels::layer_cuda_takes_parameters({in.weight, in.bias, in.skip_weight}) &&
         in.x.size(-1) / in.parts <= kernels::kWidestNorm &&
         in.x.size(-1) / in.parts % kernels::kLayerChannels == 0;
}

bool is_small(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16;
}

/// Whether nobody would see it if x was written over.
bool is_only_owner(const Tensor& x) {
  return x.is_contiguous() && x.use_count() == 1 && x.storage().use_count() == 1;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType out) {
  if (const kernels::NormTensors in{.x = x, .weight = weight, .eps = eps};
      is_small(out) && takes_cuda(in))
    return kernels::norm_cuda(in, out);
  if (const Tensor rows = x.is_cpu() ? as_rows(x) : Tensor();
      is_small(out) && rows.defined() && takes_cpu_rows({rows}) && !wants_gradient(weight) &&
      weight.scalar_type() == at::kFloat) {
    Tensor y = at::empty(x.sizes(), x.options().dtype(out));
    with_type(x, [&]<class In>(In*) {
      with_type(y, [&]<class Out>(Out*) {
        normalise_rows<In, Out>(rows, {}, {}, weight.contiguous(), 1, eps, false, y);
      });
    });
    return y;
  }
  return (divide_by_rms(x.to(at::kFloat), eps) * weight).to(out);
}

Tensor layer_norm(
    const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, at::ScalarType out) {
  if (const kernels::NormTensors in{
          .x = x, .weight = weight, .bias = bias, .centre = true, .eps = eps};
      is_small(out) && takes_cuda(in))
    return kernels::norm_cuda(in, out);
  return at::layer_norm(x.to(at::kFloat), {x.size(-1)}, weight, bias, eps).to(out);
}

Tensor group_norm(const Tensor& x,
                  int64_t groups,
                  const Tensor& weight,
                  const Tensor& bias,
                  double eps,
                  const Tensor& gate) {
  if (const kernels::NormTensors in{.x = x,
                                    .gate = gate,
                                    .weight = weight,
                                    .bias = bias,
                                    .parts = groups,
                                    .centre = true,
                                    .eps = eps};
      takes_cuda(in))
    return kernels::norm_cuda(in, x.scalar_type());
  const Tensor parts = x.to(at::kFloat).unflatten(-1, {groups, x.size(-1) / groups});
  const Tensor normal = at::layer_norm(parts, {parts.size(-1)}, {}, {}, eps).flatten(-2);
  const Tensor y = at::addcmul(bias, normal, weight);
  return (gate.defined() ? y * ops::silu(gate.to(at::kFloat)) : y).to(x.scalar_type());
}

Tensor gated_rms_norm(Tensor y,
                      const Tensor& z,
                      const Tensor& weight,
                      int64_t groups,
                      double eps,
                      bool norm_before_gate,
                      const Skip& skip) {
  if (const kernels::NormTensors in{.x = y,
                                    .gate = z,
                                    .skip = skip.x,
                                    .weight = weight,
                                    .skip_weight = skip.weight,
                                    .parts = groups,
                                    .gate_first = !norm_before_gate,
                                    .eps = eps};
      takes_cuda(in))
    return kernels::norm_cuda(in, y.scalar_type());
  const auto cpu_rows = [](const Tensor& x) { return x.is_cpu() ? as_rows(x) : Tensor(); };
  const bool writes_over = y.is_cpu() && is_only_owner(y);  // before there are views of it
  if (const Tensor rows = cpu_rows(y), gates = cpu_rows(z),
      past = skip.x.defined() ? cpu_rows(skip.x) : rows;
      rows.defined() && gates.defined() && past.defined() && takes_cpu_rows({rows, gates, past}) &&
      !wants_gradient(weight) && !wants_gradient(skip.weight) &&
      y.scalar_type() == z.scalar_type() && y.scalar_type() == past.scalar_type() &&
      (!weight.defined() || weight.scalar_type() == at::kFloat)) {
    Tensor result = writes_over ? std::move(y) : at::empty(y.sizes(), y.options());
    with_type(result, [&]<class T>(T*) {
      normalise_rows<T, T>(
          rows, gates, skip.x.defined() ? Skip{past, skip.weight.contiguous()} : Skip{},
          weight.defined() ? weight.contiguous() : weight, groups, eps, norm_before_gate, result);
    });
    return result;
  }
  const Tensor gate = ops::silu(z.to(at::kFloat));
  Tensor g = y.to(at::kFloat);
  if (skip.x.defined())
    g = (g +
         (skip.x.unflatten(-1, {skip.weight.size(0), -1}) * skip.weight.unsqueeze(-1)).flatten(-2))
            .to(y.scalar_type())
            .to(at::kFloat);
  if (!norm_before_gate)
    g = g * gate;
  if (weight.defined())
    g = divide_by_rms(g.unflatten(-1, {groups, g.size(-1) / groups}), eps).flatten(-2) * weight;
  if (norm_before_gate)
    g = g * gate;
  return g.to(y.scalar_type());
}

}  // namespace stuffed::ops
