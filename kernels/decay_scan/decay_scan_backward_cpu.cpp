// What the recurrence's gradients are, in plain loops.
#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/decay_scan/decay_scan_backward.h"

namespace stuffed::kernels {

namespace {

Tensor in_f64(const Tensor& x) {
  return x.to(at::kDouble);
}

/// One per token and head, as an axis of one element.
Tensor per_token(const Tensor& x) {
  return in_f64(x).unsqueeze(-1);
}

/// Inputs in f64, and the gradients by them while they are summed.
struct Sums {
  bool has_bonus, has_vector_decay, has_bonus_key;
  Tensor q, k, v, log_decay, scale, bonus, bonus_key, dy;
  Tensor of_q, of_k, of_v, of_log_decay, of_scale, of_bonus, of_bonus_key;

  Sums(const ScanInputs& in, const Tensor& gradient)
      : has_bonus(in.bonus.has_value()),
        has_vector_decay(in.log_decay.size(3) > 1),
        has_bonus_key(in.bonus_k.has_value()),
        q(in_f64(in.q)),
        k(in_f64(in.k)),
        v(in_f64(in.v)),
        log_decay(in_f64(in.log_decay)),
        scale(in.v_scale ? per_token(*in.v_scale) : at::ones({1, 1, 1, 1}, at::kDouble)),
        bonus(has_bonus ? in_f64(*in.bonus).view({1, 1, q.size(2), q.size(3)})
                        : at::zeros({1, 1, 1, 1}, at::kDouble)),
        bonus_key(has_bonus_key ? in_f64(*in.bonus_k) : k),
        dy(in_f64(gradient)),
        of_q(at::zeros_like(q, at::MemoryFormat::Contiguous)),
        of_k(at::zeros_like(k, at::MemoryFormat::Contiguous)),
        of_v(at::zeros_like(v, at::MemoryFormat::Contiguous)),
        of_log_decay(at::zeros_like(log_decay, at::MemoryFormat::Contiguous)),
        of_scale(at::zeros({v.size(0), v.size(1), v.size(2), 1}, at::kDouble)),
        of_bonus(at::zeros({1, 1, q.size(2), q.size(3)}, at::kDouble)),
        of_bonus_key(has_bonus_key ? at::zeros_like(of_k) : of_k) {
    scale = scale.expand_as(of_scale);
  }
};

/// A head of a sequence.
class Head {
 public:
  Head(Sums& sums, int64_t b, int64_t h, const Tensor& state, const Tensor& dstate)
      : s_(sums),
        b_(b),
        h_(h),
        T_(sums.q.size(1)),
        K_(sums.q.size(3)),
        V_(sums.v.size(3)),
        states_(size_t((T_ + 1) * K_ * V_)),
        carry_(size_t(K_ * V_)) {
    const Tensor first = in_f64(state[b][h]).contiguous(), last = in_f64(dstate[b][h]).contiguous();
    for (int64_t i = 0; i < K_ * V_; ++i) {
      states_[size_t(i)] = first.const_data_ptr<double>()[i];
      carry_[size_t(i)] = last.const_data_ptr<double>()[i];
    }
  }

  void forward() {
    for (int64_t t = 0; t < T_; ++t)
      for (int64_t c = 0; c < K_; ++c)
        for (int64_t i = 0; i < V_; ++i)
          at(t + 1, c, i) =
              decay(t, c) * at(t, c, i) + of(s_.k, t, c) * of(s_.scale, t, 0) * of(s_.v, t, i);
  }

  void backward() {
    for (int64_t t = T_ - 1; t >= 0; --t) {
      if (!s_.has_bonus)
        read(t, t + 1);
      update(t);
      if (s_.has_bonus) {
        read(t, t);
        add_bonus(t);
      }
    }
  }

  const std::vector<double>& gradient_of_state() const { return carry_; }

 private:
  double& at(int64_t t, int64_t c, int64_t i) { return states_[size_t((t * K_ + c) * V_ + i)]; }
  double& carry(int64_t c, int64_t i) { return carry_[size_t(c * V_ + i)]; }
  double& of(Tensor& x, int64_t t, int64_t c) const {
    return *(x.mutable_data_ptr<double>() + b_ * x.stride(0) + t * x.stride(1) + h_ * x.stride(2) +
             c * x.stride(3));
  }
  int64_t channel(int64_t c) const { return s_.has_vector_decay ? c : 0; }
  double decay(int64_t t, int64_t c) const { return std::exp(of(s_.log_decay, t, channel(c))); }

  /// y_t = q_t^T S, of the state after `seen` tokens.
  void read(int64_t t, int64_t seen) {
    for (int64_t c = 0; c < K_; ++c)
      for (int64_t i = 0; i < V_; ++i) {
        of(s_.of_q, t, c) += at(seen, c, i) * of(s_.dy, t, i);
        carry(c, i) += of(s_.q, t, c) * of(s_.dy, t, i);
      }
  }

  /// S_{t+1} = decay S_t + k (scale v)^T.
  void update(int64_t t) {
    for (int64_t c = 0; c < K_; ++c)
      for (int64_t i = 0; i < V_; ++i) {
        const double G = carry(c, i), scale = of(s_.scale, t, 0), v = of(s_.v, t, i),
                     k = of(s_.k, t, c);
        of(s_.of_k, t, c) += G * scale * v;
        of(s_.of_v, t, i) += G * k * scale;
        of(s_.of_scale, t, 0) += G * k * v;
        of(s_.of_log_decay, t, channel(c)) += decay(t, c) * G * at(t, c, i);
        carry(c, i) = decay(t, c) * G;
      }
  }

  /// y_t += sum over c of q u k', times v.
  void add_bonus(int64_t t) {
    double v_dy = 0;
    for (int64_t i = 0; i < V_; ++i)
      v_dy += of(s_.v, t, i) * of(s_.dy, t, i);
    for (int64_t c = 0; c < K_; ++c) {
      const double q = of(s_.q, t, c), u = of(s_.bonus, 0, 0, c), k = of(s_.bonus_key, t, c);
      of(s_.of_q, t, c) += u * k * v_dy;
      of(s_.of_bonus_key, t, c) += q * u * v_dy;
      of(s_.of_bonus, 0, 0, c) += q * k * v_dy;
      for (int64_t i = 0; i < V_; ++i)
        of(s_.of_v, t, i) += q * u * k * of(s_.dy, t, i);
    }
  }

  /// What has neither sequences nor tokens.
  double& of(Tensor& x, int64_t, int64_t, int64_t c) const {
    return *(x.mutable_data_ptr<double>() + h_ * x.stride(2) + c * x.stride(3));
  }

  Sums& s_;
  int64_t b_, h_, T_, K_, V_;
  std::vector<double> states_, carry_;  // [T+1,K,V]; [K,V]: gradient by the state between tokens
};

/// The sums in the places and of the types of what they are by.
ScanInputs gradients_by(const ScanInputs& in, const Sums& sums) {
  ScanInputs by = in;
  by.q = sums.of_q.to(in.q.scalar_type());
  by.k = sums.of_k.to(in.k.scalar_type());
  by.v = sums.of_v.to(in.v.scalar_type());
  by.log_decay = sums.of_log_decay.to(in.log_decay.scalar_type());
  if (in.v_scale)
    by.v_scale = sums.of_scale.squeeze(-1).to(in.v_scale->scalar_type());
  if (in.bonus)
    by.bonus = sums.of_bonus.squeeze(0).squeeze(0).to(in.bonus->scalar_type());
  if (in.bonus_k)
    by.bonus_k = sums.of_bonus_key.to(in.bonus_k->scalar_type());
  return by;
}

}  // namespace

bool decay_scan_backward_takes(const ScanInputs& in) {
  return in.log_decay.defined() && !in.erase;
}

ScanGradients decay_scan_backward_cpu(const ScanInputs& in,
                                      const Tensor& state,
                                      const Tensor& dy,
                                      const Tensor& dstate) {
  Sums sums(in, dy);
  Tensor by_state = at::empty(state.sizes(), at::kDouble);
  for (int64_t b = 0; b < state.size(0); ++b)
    for (int64_t h = 0; h < state.size(1); ++h) {
      Head head(sums, b, h, state, dstate);
      head.forward();
      head.backward();
      std::ranges::copy(head.gradient_of_state(),
                        by_state.mutable_data_ptr<double>() +
                            (b * state.size(1) + h) * state.size(2) * state.size(3));
    }
  return {gradients_by(in, sums), by_state.to(state.scalar_type())};
}

}  // namespace stuffed::kernels
