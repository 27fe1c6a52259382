// Which implementation of the recurrence runs, and the only place where its arguments are checked.
#include "stuffed/ops/decay_scan.h"

#include <algorithm>
#include <array>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {
constexpr std::array<std::string_view, 4> kImplNames = {"auto", "reference", "chunked", "cuda"};
}

std::string_view impl_name(Impl impl) {
  return kImplNames.at(static_cast<size_t>(impl));
}

Impl parse_impl(std::string_view name) {
  for (size_t i = 0; i < kImplNames.size(); ++i)
    if (kImplNames[i] == name)
      return static_cast<Impl>(i);
  fail(Error::Kind::Usage, "'{}' is not an implementation; known are {}", name,
       fmt::join(kImplNames, ", "));
}

namespace ops {

namespace {

constexpr auto kBug = Error::Kind::Internal;

std::string show(const Tensor& x) {
  if (!x.defined())
    return "undefined";
  return fmt::format("[{}] {} on {}", fmt::join(x.sizes(), ","), toString(x.scalar_type()),
                     x.device().str());
}

void check_tensor(
    const char* name, const Tensor& x, at::IntArrayRef shape, bool any_float, const Tensor& state) {
  const auto type = x.defined() ? x.scalar_type() : at::kBool;
  const bool good_type =
      type == state.scalar_type() || (any_float && (type == at::kBFloat16 || type == at::kFloat));
  check(x.defined() && x.sizes() == shape && x.device() == state.device() && good_type, kBug,
        "decay_scan: {} is {}, expected [{}] in {}{} on {}", name, show(x), fmt::join(shape, ","),
        toString(state.scalar_type()), any_float ? " or bf16" : "", state.device().str());
  const int64_t last = x.dim() - 1;
  check(!any_float || x.size(last) <= 1 || x.stride(last) <= 1, kBug,
        "decay_scan: the last axis of {} has stride {}; it must be dense or expanded", name,
        x.stride(last));
}

/// Looked at on the CPU only: on a GPU it would have to wait for the data. NaN passes: it is data.
void check_sign(const char* name, Tensor x, int sign) {
  for (int64_t axis = 0; axis < x.dim(); ++axis)
    if (x.size(axis) > 1 && x.stride(axis) == 0)
      x = x.narrow(axis, 0, 1);
  if (!x.is_cpu() || x.numel() == 0)
    return;
  double extreme = 0;
  if (x.scalar_type() == at::kFloat && x.is_contiguous()) {  // decoding passes here every step
    const float* const data = x.const_data_ptr<float>();
    float worst = 0;
    for (int64_t i = 0; i < x.numel(); ++i)
      worst = std::min(worst, data[i] * static_cast<float>(sign));
    extreme = worst * sign;
  } else {
    extreme = (sign > 0 ? x.detach().min() : x.detach().max()).item<double>();
  }
  check(!(extreme * sign < 0), kBug,
        "decay_scan: {} holds {}, of the wrong sign: the state would grow by itself", name,
        extreme);
}

void check_decay(const ScanInputs& in, const Tensor& state, int64_t T) {
  const int64_t B = state.size(0), H = state.size(1), K = state.size(2);
  check(in.log_decay.defined() != in.factored_decay.has_value(), kBug,
        "decay_scan: needs either log_decay or factored_decay, got log_decay {} and {} "
        "factored_decay",
        show(in.log_decay), in.factored_decay ? "a" : "no");
  if (in.factored_decay) {
    check_tensor("factored_decay.step", in.factored_decay->step, {B, T, H}, false, state);
    check_tensor("factored_decay.rate", in.factored_decay->rate, {H, K}, false, state);
    check_sign("factored_decay.rate", in.factored_decay->rate, -1);
    check_sign("factored_decay.step", in.factored_decay->step, 1);
    check(in.factored_decay->offset <= 0, kBug,
          "decay_scan: factored_decay.offset is {}, expected <= 0", in.factored_decay->offset);
    check(!in.erase, kBug, "decay_scan: erase needs a stored log_decay");
    return;
  }
  const bool scalar = in.log_decay.dim() == 4 && in.log_decay.size(3) == 1;
  check_tensor("log_decay", in.log_decay, {B, T, H, scalar ? 1 : K}, false, state);
  check_sign("log_decay", in.log_decay, -1);
}

void check_scan(const ScanInputs& in, const Tensor& state) {
  check(state.defined() && state.dim() == 4 &&
            (state.scalar_type() == at::kFloat || state.scalar_type() == at::kDouble),
        kBug, "decay_scan: state is {}, expected [B,H,K,V] in f32", show(state));
  check(in.q.defined() && in.q.dim() == 4, kBug, "decay_scan: q is {}, expected [B,T,H,K]",
        show(in.q));
  const int64_t B = state.size(0), H = state.size(1), K = state.size(2), V = state.size(3),
                T = in.q.size(1);
  check_tensor("q", in.q, {B, T, H, K}, true, state);
  check_tensor("k", in.k, {B, T, H, K}, true, state);
  check_tensor("v", in.v, {B, T, H, V}, true, state);
  check_decay(in, state, T);
  if (in.v_scale)
    check_tensor("v_scale", *in.v_scale, {B, T, H}, false, state);
  if (in.bonus)
    check_tensor("bonus", *in.bonus, {H, K}, false, state);
  check(in.bonus || !in.bonus_k, kBug, "decay_scan: bonus_k without bonus");
  if (in.bonus_k)
    check_tensor("bonus_k", *in.bonus_k, {B, T, H, K}, true, state);
  if (in.erase) {
    check_tensor("erase.read", in.erase->read, {B, T, H, K}, true, state);
    check_tensor("erase.write", in.erase->write, {B, T, H, K}, true, state);
  }
}

bool needs_gradient(const ScanInputs& in) {
  const auto wants = [](const std::optional<Tensor>& x) {
    return x && x->defined() && x->requires_grad();
  };
  return at::GradMode::is_enabled() &&
         (wants(in.q) || wants(in.k) || wants(in.v) || wants(in.log_decay) || wants(in.v_scale) ||
          wants(in.bonus) || wants(in.bonus_k) ||
          (in.factored_decay &&
           (wants(in.factored_decay->step) || wants(in.factored_decay->rate))) ||
          (in.erase && (wants(in.erase->read) || wants(in.erase->write))));
}

}  // namespace

Impl choose(const ScanInputs& in, Impl impl) {
  if (impl != Impl::Auto)
    return impl;
  return in.q.is_cuda() && !needs_gradient(in) && kernels::decay_scan_cuda_takes(in)
             ? Impl::Cuda
             : Impl::Chunked;
}

namespace {

/// Checks everything, and chooses.
Impl prepare(const ScanInputs& in, const Tensor& state, Impl impl, bool& has_gradient) {
  check_scan(in, state);
  has_gradient = needs_gradient(in) || (at::GradMode::is_enabled() && state.requires_grad());
  impl = has_gradient && impl == Impl::Auto ? Impl::Chunked : choose(in, impl);
  check(!has_gradient || impl == Impl::Chunked, Error::Kind::Unsupported,
        "decay_scan: the {} implementation has no gradient; use chunked", impl_name(impl));
  return impl;
}

}  // namespace

ScanResult decay_scan(const ScanInputs& in, const Tensor& state, Impl impl) {
  bool has_gradient = false;
  impl = prepare(in, state, impl, has_gradient);
  if (impl == Impl::Chunked) {
    if (has_gradient || !kernels::decay_scan_step_takes(in, state))
      return decay_scan_chunked(in, state);
    const Tensor next = at::empty(state.sizes(), state.options());
    const Tensor y = kernels::decay_scan_step(in, state, next);
    return {y, next};
  }
  if (impl == Impl::Cuda)
    return kernels::decay_scan_cuda(in, state);
  check(state.is_cpu(), Error::Kind::Unsupported,
        "decay_scan: the reference runs on the CPU, the tensors are on {}; use --device cpu",
        state.device().str());
  return kernels::decay_scan_cpu(in, state);
}

Tensor decay_scan_in_place(const ScanInputs& in, const Tensor& state, Impl impl) {
  bool has_gradient = false;
  const Impl chosen = prepare(in, state, impl, has_gradient);
  check(!has_gradient && state.is_contiguous(), kBug,
        "decay_scan: a state is written over only if it is dense and no gradient is wanted");
  if (chosen == Impl::Cuda)
    return kernels::decay_scan_cuda_in_place(in, state);
  if (chosen == Impl::Chunked && kernels::decay_scan_step_takes(in, state))
    return kernels::decay_scan_step(in, state, state);
  const ScanResult out = decay_scan(in, state, impl);
  state.copy_(out.state);
  return out.y;
}

}  // namespace ops
}  // namespace stuffed
