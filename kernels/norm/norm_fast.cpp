// RMS norms on the CPU in one pass over memory, where ATen's passes were measured to dominate.
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/norm/norm.h"

namespace stuffed::kernels {

namespace {

/// Whether the rows of x are a matrix without a copy.
bool are_rows(const Tensor& x) {
  return x.is_contiguous() ||
         (x.dim() == 3 && (x.size(0) == 1 || x.stride(0) == x.stride(1) * x.size(1)));
}

/// That matrix, [n,D].
Tensor as_rows(const Tensor& x) {
  return x.is_contiguous()
             ? x.view({-1, x.size(-1)})
             : x.as_strided({x.size(0) * x.size(1), x.size(2)}, {x.stride(1), x.stride(2)});
}

/// Whether the loops read these rows, of the type of x. Undefined ones are absent.
bool takes_rows(const Tensor& rows, const Tensor& x) {
  return !rows.defined() ||
         (rows.scalar_type() == x.scalar_type() && takes_cpu_rows({rows}) && are_rows(rows));
}

/// One weight per channel, of however many channels share one.
std::vector<float> spread(const Tensor& weight, int64_t channels) {
  std::vector<float> wide;
  for (int64_t i = 0; weight.defined() && i < weight.numel(); ++i)
    wide.insert(wide.end(), static_cast<size_t>(channels / weight.numel()),
                weight.const_data_ptr<float>()[i]);
  return wide;
}

/// x, gate and skip [n,D] with dense rows. y may be x: a row is read whole before it is written.
template <class In, class Out>
void normalise_rows(const NormInputs& in, const Tensor& y) {
  const int64_t D = in.x.size(1), width = D / in.parts;
  const float* const weight = in.weight.defined() ? in.weight.const_data_ptr<float>() : nullptr;
  at::parallel_for(0, in.x.size(0), rows_per_thread(D), [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(D)), gate(row.size()), past(row.size());
    const std::vector<float> past_weight = spread(in.skip_weight, D);
    for (int64_t i = begin; i < end; ++i) {
      load_row(in.x.const_data_ptr<In>() + i * in.x.stride(0), row.data(), D);
      if (in.skip.defined()) {
        load_row(in.skip.const_data_ptr<In>() + i * in.skip.stride(0), past.data(), D);
        multiply_add_row(past.data(), past_weight.data(), row.data(), D);
      }
      if (in.gate.defined())
        load_row(in.gate.const_data_ptr<In>() + i * in.gate.stride(0), gate.data(), D);
      if (in.gate.defined() && in.gate_first)
        gate_row(gate.data(), row.data(), D);
      for (int64_t part = 0; weight && part < in.parts; ++part) {
        float* const x = row.data() + part * width;
        const double mean = sum_squares_row(x, width) / static_cast<double>(width);
        multiply_row(weight + part * width, static_cast<float>(1 / std::sqrt(mean + in.eps)), x,
                     width);
      }
      if (in.gate.defined() && !in.gate_first)
        gate_row(gate.data(), row.data(), D);
      store_row(row.data(), y.mutable_data_ptr<Out>() + i * D, D);
    }
  });
}

/// The same norm over matrices, with dense parameters.
NormInputs flattened(NormInputs in) {
  for (Tensor* rows : {&in.x, &in.gate, &in.skip})
    if (rows->defined())
      *rows = as_rows(*rows);
  for (Tensor* parameter : {&in.weight, &in.skip_weight})
    if (parameter->defined())
      *parameter = parameter->contiguous();
  return in;
}

bool is_f32_or_bf16(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16;
}

}  // namespace

bool norm_fast_takes(const NormInputs& in) {
  return !in.centre && !in.bias.defined() && is_f32_or_bf16(in.out.value_or(in.x.scalar_type())) &&
         takes_rows(in.x, in.x) && takes_rows(in.gate, in.x) && takes_rows(in.skip, in.x) &&
         !wants_gradient(in.weight) && !wants_gradient(in.skip_weight) &&
         (!in.weight.defined() || in.weight.scalar_type() == at::kFloat);
}

Tensor norm_fast(const NormInputs& in) {
  const Tensor y =
      in.to.defined()
          ? in.to
          : at::empty(in.x.sizes(), in.x.options().dtype(in.out.value_or(in.x.scalar_type())));
  const NormInputs flat = flattened(in);
  with_type(in.x, [&]<class In>(In*) {
    with_type(y, [&]<class Out>(Out*) { normalise_rows<In, Out>(flat, y); });
  });
  return y;
}

}  // namespace stuffed::kernels
