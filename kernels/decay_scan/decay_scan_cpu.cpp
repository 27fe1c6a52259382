// What the recurrence is, in plain loops: every other implementation must agree with this one.
#include <array>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

namespace {

/// Any element of a strided [B,T,H,C] view as f64; a view of fewer axes reads 0 for the missing
/// first ones.
class Reader {
 public:
  explicit Reader(const Tensor& x)
      : data_(static_cast<const char*>(x.const_data_ptr())), type_(x.scalar_type()) {
    const int64_t skip = 4 - x.dim();
    for (int64_t axis = 0; axis < x.dim(); ++axis)
      stride_.at(axis + skip) = x.size(axis) == 1 ? 0 : x.stride(axis);
  }

  double operator()(int64_t b, int64_t t, int64_t h, int64_t c) const {
    const int64_t i = b * stride_[0] + t * stride_[1] + h * stride_[2] + c * stride_[3];
    if (type_ == at::kDouble)
      return reinterpret_cast<const double*>(data_)[i];
    if (type_ == at::kFloat)
      return reinterpret_cast<const float*>(data_)[i];
    return static_cast<float>(reinterpret_cast<const at::BFloat16*>(data_)[i]);
  }

 private:
  const char* data_;
  at::ScalarType type_;
  std::array<int64_t, 4> stride_{};
};

/// exp(log_decay[b,t,h,c]), stored or from its factors or of a gate.
class DecayReader {
 public:
  explicit DecayReader(const ScanInputs& in)
      : number_(in.factored_decay ? in.factored_decay->step.unsqueeze(-1)
                : in.gate         ? in.gate->raw
                                  : in.log_decay),
        factored_(in.factored_decay.has_value()),
        offset_(factored_ ? in.factored_decay->offset : 0),
        gate_(in.gate ? in.gate->kind : GateKind::None) {
    if (factored_)
      parameter_.emplace(in.factored_decay->rate);
    else if (in.gate && in.gate->base)
      parameter_.emplace(*in.gate->base);
  }

  double operator()(int64_t b, int64_t t, int64_t h, int64_t c) const {
    const double x = number_(b, t, h, c), p = parameter_ ? (*parameter_)(0, 0, h, c) : 0;
    if (gate_ == GateKind::NegativeExp)
      return std::exp(-std::exp(x + p));
    if (gate_ == GateKind::Forget)
      return p + (1 - p) / (1 + std::exp(-x));
    return std::exp(factored_ ? x * p + offset_ : x);
  }

  /// The key that a forget gate makes.
  double key(int64_t b, int64_t t, int64_t h, int64_t c) const {
    const double p = parameter_ ? (*parameter_)(0, 0, h, c) : 0;
    return (1 - p) / (1 + std::exp(number_(b, t, h, c)));
  }

 private:
  Reader number_;
  std::optional<Reader> parameter_;  // of a channel
  bool factored_;
  double offset_;
  GateKind gate_;
};

}  // namespace

ScanResult decay_scan_cpu(const ScanInputs& in, const Tensor& state) {
  const int64_t B = state.size(0), H = state.size(1), K = state.size(2), V = state.size(3),
                T = in.q.size(1);
  Tensor y = at::zeros({B, T, H, V}, at::kDouble);
  Tensor s = at::empty({B, H, K, V}, at::kDouble).copy_(state);
  auto Y = y.accessor<double, 4>();
  auto S = s.accessor<double, 4>();
  // What is absent is not read: q stands in.
  const bool forgets = in.gate && in.gate->kind == GateKind::Forget;
  const Reader q(in.q), stored_k(forgets ? in.q : in.k), v(in.v);
  const Reader bonus_k(in.bonus_k.value_or(in.q)), bonus(in.bonus.value_or(in.q));
  const Reader scale(in.v_scale ? in.v_scale->unsqueeze(-1) : in.v);
  const Reader read(in.erase ? in.erase->read : in.q), write(in.erase ? in.erase->write : in.q);
  const DecayReader decay(in);
  const auto k = [&](int64_t b, int64_t t, int64_t h, int64_t c) {
    return forgets ? decay.key(b, t, h, c) : stored_k(b, t, h, c);
  };
  std::vector<double> erased(V);

  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t) {
        if (in.bonus)  // read before update, so that a token sees itself through the bonus alone
          for (int64_t c = 0; c < K; ++c)
            for (int64_t i = 0; i < V; ++i)
              Y[b][t][h][i] +=
                  q(b, t, h, c) *
                  (S[b][h][c][i] + bonus(0, 0, h, c) *
                                       (in.bonus_k ? bonus_k(b, t, h, c) : k(b, t, h, c)) *
                                       v(b, t, h, i));

        for (int64_t i = 0; i < V; ++i) {
          erased[i] = 0;
          for (int64_t c = 0; in.erase && c < K; ++c)
            erased[i] += read(b, t, h, c) * S[b][h][c][i];
        }
        for (int64_t c = 0; c < K; ++c) {
          const double a = decay(b, t, h, c), key = k(b, t, h, c),
                       written = in.erase ? write(b, t, h, c) : 0;
          for (int64_t i = 0; i < V; ++i) {
            const double value = in.v_scale ? scale(b, t, h, 0) * v(b, t, h, i) : v(b, t, h, i);
            S[b][h][c][i] = a * S[b][h][c][i] - written * erased[i] + key * value;
          }
        }
        if (!in.bonus)
          for (int64_t c = 0; c < K; ++c)
            for (int64_t i = 0; i < V; ++i)
              Y[b][t][h][i] += q(b, t, h, c) * S[b][h][c][i];
      }
  return {y.to(in.v.scalar_type()), s.to(state.scalar_type())};
}

}  // namespace stuffed::kernels
