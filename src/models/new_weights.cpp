#include "new_weights.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "stuffed/core/rng.h"

namespace stuffed {

namespace {

at::Generator generator_of(uint64_t seed, const std::string& name) {
  return at::detail::createCPUGenerator(Rng(seed, name).next());
}

const auto kOptions = at::TensorOptions().dtype(at::kFloat);

}  // namespace

Tensor drawn_normal(uint64_t seed,
                    const std::string& name,
                    const std::vector<int64_t>& shape,
                    double deviation) {
  return at::normal(0.0, deviation, shape, generator_of(seed, name), kOptions);
}

Tensor drawn_uniform(uint64_t seed,
                     const std::string& name,
                     const std::vector<int64_t>& shape,
                     double bound) {
  return at::empty(shape, kOptions).uniform_(-bound, bound, generator_of(seed, name));
}

Tensor drawn_orthogonal(uint64_t seed,
                        const std::string& name,
                        const std::vector<int64_t>& shape,
                        double gain) {
  const Tensor normal = drawn_normal(seed, name, shape, 1);
  const bool is_wide = shape[0] < shape[1];
  const auto [q, r] = at::linalg_qr(is_wide ? normal.t() : normal);
  // The signs make it uniform among all such matrices.
  const Tensor signed_q = q * r.diagonal().sign() * gain;
  return (is_wide ? signed_q.t() : signed_q).contiguous();
}

void Refill::parameter(const std::string& name,
                       Tensor& home,
                       std::vector<int64_t> shape,
                       Role role) {
  const Tensor value = value_of_(name, shape, role);
  if (value.defined())
    home = value.to(device_);
}

}  // namespace stuffed
