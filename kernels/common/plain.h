// What the plain references read: any tensor, whatever its type and strides, as dense f64 numbers.
#pragma once
#include <cmath>

#include <ATen/ATen.h>

namespace stuffed::kernels {

/// Dense f64 numbers of a tensor on the CPU; none of an undefined one.
class Plain {
 public:
  explicit Plain(const at::Tensor& x)
      : dense_(x.defined() ? x.to(at::kDouble).contiguous() : x),
        data_(x.defined() ? dense_.const_data_ptr<double>() : nullptr) {}

  explicit operator bool() const { return data_ != nullptr; }
  double operator[](int64_t i) const { return data_[i]; }
  /// The number, or `otherwise` where the tensor is absent.
  double get(int64_t i, double otherwise) const { return data_ ? data_[i] : otherwise; }

 private:
  at::Tensor dense_;
  const double* data_;
};

inline double plain_sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

inline double plain_silu(double x) {
  return x * plain_sigmoid(x);
}

/// log(1 + exp(x)) without an overflow.
inline double plain_softplus(double x) {
  return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x)));
}

}  // namespace stuffed::kernels
