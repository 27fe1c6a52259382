#include "stuffed/ops/activations.h"

#include <algorithm>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "kernels/layer/layer_cuda.h"
#include "stuffed/core/gradient.h"

namespace stuffed::ops {

namespace {

using kernels::Map;

bool takes(std::initializer_list<Tensor> activations, const Tensor& parameter = {}) {
  return kernels::layer_cuda_takes(activations) &&
         kernels::layer_cuda_takes_parameters({parameter});
}

Tensor wide(const Tensor& x) {  // f64 stays, for tests
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

/// f(out, parts...), elementwise, of tensors of one shape and type, in pieces of a fixed length.
/// ATen would give each thread an equal share, and computes what is left of a share after whole
/// vectors by another formula for the functions below: bits would depend on the number of threads.
/// No gradient is wanted, which other threads would not know: hence detach().
template <class F, class... Parts>
Tensor in_pieces(const F& f, const Parts&... parts) {
  constexpr int64_t kPiece = 32768;  // what ATen leaves to one thread
  const Tensor& first = std::get<0>(std::tie(parts...));
  const int64_t n = first.numel();
  Tensor out = at::empty(first.sizes(), first.options());
  if (!first.is_cpu() || n <= kPiece) {
    f(out, parts...);
    return out;
  }
  const auto flat = std::make_tuple(parts.detach().contiguous().view(-1)...);
  const Tensor whole = out.view(-1);
  at::parallel_for(0, (n + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t at = piece * kPiece, count = std::min(kPiece, n - at);
      Tensor to = whole.narrow(0, at, count);
      std::apply([&](const auto&... x) { f(to, x.narrow(0, at, count)...); }, flat);
    }
  });
  return out;
}

Tensor log_add_exp(const Tensor& a, const Tensor& b) {
  if (wants_gradient(a) || wants_gradient(b))
    return at::logaddexp(a, b);
  const auto f = [](Tensor& out, const Tensor& x, const Tensor& y) {
    at::logaddexp_out(out, x, y);
  };
  return in_pieces(f, a.expand_as(b), b);
}

}  // namespace

Tensor silu(const Tensor& x) {
  if (wants_gradient(x))
    return at::silu(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::silu_out(out, piece); }, x);
}

Tensor sigmoid(const Tensor& x) {
  if (wants_gradient(x))
    return at::sigmoid(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::sigmoid_out(out, piece); }, x);
}

Tensor silu_product(const Tensor& a, const Tensor& b) {
  if (takes({a, b}))
    return kernels::map_cuda(Map::SiluProduct, a, b, {});
  return (ops::silu(wide(a)) * b).to(a.scalar_type());
}

Tensor sigmoid_product(const Tensor& a, const Tensor& b) {
  if (takes({a, b}))
    return kernels::map_cuda(Map::SigmoidProduct, a, b, {});
  return (ops::sigmoid(wide(a)) * b).to(a.scalar_type());
}

Tensor relu_square(const Tensor& a) {
  if (takes({a}))
    return kernels::map_cuda(Map::ReluSquare, a, {}, {});
  return at::relu(a).square();
}

Tensor negative_exp(const Tensor& a, const Tensor& offset) {
  if (takes({a}, offset))
    return kernels::map_cuda(Map::NegativeExp, a, {}, offset);
  return -(wide(a) + offset).exp();
}

Tensor softplus(const Tensor& a, const Tensor& offset) {
  if (takes({a}, offset))
    return kernels::map_cuda(Map::Softplus, a, {}, offset);
  const Tensor x = wide(a) + offset;
  if (wants_gradient(x))
    return at::softplus(x);
  return in_pieces([](Tensor& out, const Tensor& piece) { at::softplus_out(out, piece); }, x);
}

ForgetGate forget_gate(const Tensor& a, const Tensor& low) {
  if (takes({a}, low)) {
    const auto [insert, log_forget] = kernels::forget_gate_cuda(a, low);
    return {insert, log_forget};
  }
  const Tensor x = wide(a);
  Tensor log_forget = at::log_sigmoid(x), insert = ops::sigmoid(-x);
  if (low.defined()) {
    const Tensor free = 1 - low;
    log_forget = log_add_exp(low.log(), free.log() + log_forget);
    insert = free * insert;
  }
  return {insert.to(a.scalar_type()), log_forget.clamp_max(0)};
}

}  // namespace stuffed::ops
