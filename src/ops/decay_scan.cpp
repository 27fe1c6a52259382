// Which program runs the recurrence, and the only place where its arguments are checked.
#include "stuffed/ops/decay_scan.h"

#include <algorithm>
#include <array>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "kernels/decay_scan/decay_scan_backward.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/op.h"

namespace stuffed::ops {

namespace {

constexpr auto kBug = Error::Kind::Internal;

std::string show(const Tensor& x) {
  if (!x.defined())
    return "undefined";
  return fmt::format("[{}] {} on {}", fmt::join(x.sizes(), ","), toString(x.scalar_type()),
                     x.device().str());
}

/// The shape of a field, for the state's and this many tokens.
std::vector<int64_t> shape_of(const ScanField& field,
                              const Tensor& x,
                              const Tensor& state,
                              int64_t T) {
  std::vector<int64_t> shape;
  for (const char axis : field.axes)
    shape.push_back(axis == 'b'                                                    ? state.size(0)
                    : axis == 't'                                                  ? T
                    : axis == 'h'                                                  ? state.size(1)
                    : axis == 'v'                                                  ? state.size(3)
                    : axis == 'c' && x.defined() && x.dim() == 4 && x.size(3) == 1 ? 1
                                                                                   : state.size(2));
  return shape;
}

void check_tensor(const ScanField& field, const Tensor& x, const Tensor& state, int64_t T) {
  const auto type = x.defined() ? x.scalar_type() : at::kBool;
  const std::vector<int64_t> shape = shape_of(field, x, state, T);
  const bool any_float = field.is_stream;
  const std::string_view name = field.name;
  const bool good_type =
      type == state.scalar_type() || (any_float && (type == at::kBFloat16 || type == at::kFloat));
  check(x.defined() && x.sizes() == at::IntArrayRef(shape) && x.device() == state.device() &&
            good_type,
        kBug, "decay_scan: {} is {}, expected [{}] in {}{} on {}", name, show(x),
        fmt::join(shape, ","), toString(state.scalar_type()), any_float ? " or bf16" : "",
        state.device().str());
  const int64_t last = x.dim() - 1;
  check(!any_float || x.size(last) <= 1 || x.stride(last) <= 1, kBug,
        "decay_scan: the last axis of {} has stride {}; it must be dense or expanded", name,
        x.stride(last));
}

/// Looked at on the CPU only: on a GPU it would have to wait for the data. NaN passes: it is data.
void check_sign(std::string_view name, Tensor x, int sign) {
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

void check_decay(const ScanInputs& in) {
  if (!in.factored_decay) {
    check_sign("log_decay", in.log_decay, -1);
    return;
  }
  check_sign("factored_decay.rate", in.factored_decay->rate, -1);
  check_sign("factored_decay.step", in.factored_decay->step, 1);
  check(in.factored_decay->offset <= 0, kBug,
        "decay_scan: factored_decay.offset is {}, expected <= 0", in.factored_decay->offset);
  check(!in.erase, kBug, "decay_scan: erase needs a stored log_decay");
}

void check_gate(const ScanInputs& in) {
  check(in.gate->kind != GateKind::None, kBug, "decay_scan: the gate says not what it stands for");
  check(in.k.defined() != (in.gate->kind == GateKind::Forget), kBug,
        "decay_scan: k is {} beside a gate that {} it", show(in.k),
        in.k.defined() ? "gives" : "does not give");
}

void check_scan(const ScanInputs& in, const Tensor& state) {
  check(state.defined() && state.dim() == 4 &&
            (state.scalar_type() == at::kFloat || state.scalar_type() == at::kDouble),
        kBug, "decay_scan: state is {}, expected [B,H,K,V] in f32", show(state));
  check(in.q.defined() && in.q.dim() == 4, kBug, "decay_scan: q is {}, expected [B,T,H,K]",
        show(in.q));
  check(
      int{in.log_decay.defined()} + int{in.factored_decay.has_value()} + int{in.gate.has_value()} ==
          1,
      kBug,
      "decay_scan: needs one of log_decay, gate and factored_decay, got log_decay {}, {} gate and "
      "{} factored_decay",
      show(in.log_decay), in.gate ? "a" : "no", in.factored_decay ? "a" : "no");
  if (in.gate)
    check_gate(in);
  check(in.bonus || !in.bonus_k, kBug, "decay_scan: bonus_k without bonus");
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    check_tensor(field, x, state, in.q.size(1));
  });
  if (!in.gate)
    check_decay(in);
}

bool needs_gradient(const ScanInputs& in, const Tensor& state) {
  bool any = state.requires_grad();
  visit_tensors(in, [&](const ScanField&, const Tensor& x) { any |= x.requires_grad(); });
  return any && at::GradMode::is_enabled();
}

constexpr std::array kPrograms = {Impl::Cuda, Impl::Step, Impl::Tiled, Impl::Aten, Impl::Reference};

/// With a log decay in the gate's place as far as `takes` is concerned: of its shape, not made.
ScanInputs as_if_stored(const ScanInputs& in) {
  ScanInputs out = in;
  out.gate.reset();
  out.log_decay = in.gate->raw;
  if (!in.k.defined())
    out.k = in.gate->raw;
  return out;
}

/// Whether the program makes the decays of the gate itself. Backward passes know no gates.
bool takes_gate(Impl program, const ScanInputs& in, const Tensor& state) {
  if (needs_gradient(in, state))
    return false;
  return program == Impl::Reference ||
         (program == Impl::Cuda && state.scalar_type() == at::kFloat &&
          kernels::decay_scan_cuda_takes(in));
}

/// For lists: the programs, and what chooses among some of them.
std::vector<Impl> forms_of_scan() {
  std::vector<Impl> forms(kPrograms.begin(), kPrograms.end());
  forms.insert(forms.begin() + 1, Impl::Chunked);
  return forms;
}

/// Whether the program has a backward pass for these inputs.
bool takes_with_gradient(Impl program, const ScanInputs& in, const Tensor& state) {
  return program == Impl::Reference
             ? state.is_cpu() && kernels::decay_scan_backward_takes(in)
             : program == Impl::Cuda && kernels::decay_scan_backward_cuda_takes(in, state);
}

bool takes(Impl program, const ScanInputs& in, const Tensor& state) {
  if (program == Impl::Aten)
    return true;
  if (in.gate && !takes_gate(program, in, state))
    return takes(program, as_if_stored(in), state);
  if (needs_gradient(in, state))
    return takes_with_gradient(program, in, state);
  switch (program) {
    case Impl::Reference:
      return state.is_cpu();
    case Impl::Step:
      return kernels::decay_scan_step_takes(in, state);
    case Impl::Tiled:
      return kernels::decay_scan_tiled_takes(in, state);
    case Impl::Cuda:
      return state.scalar_type() == at::kFloat && kernels::decay_scan_cuda_takes(in);
    default:
      return false;
  }
}

[[noreturn]] void refuse(Impl program, const ScanInputs& in, const Tensor& state) {
  std::vector<std::string_view> others;
  for (const Impl other : kPrograms)
    if (takes(other, in, state))
      others.push_back(impl_name(other));
  fail(Error::Kind::Unsupported,
       "scan: the form '{}' does not take q {}, v {}, state {}{}{}; those that do: {}",
       impl_name(program), show(in.q), show(in.v), show(state),
       needs_gradient(in, state) ? " with a gradient" : "",
       program != Impl::Cuda       ? ""
       : cuda_library() == nullptr ? fmt::format(" ({})", why_no_cuda())
       : !in.q.is_cuda()           ? " (it needs a GPU: --device cuda)"
                                   : "",
       fmt::join(others, ", "));
}

}  // namespace

extern const Op scan_op;
const Op scan_op = {.name = "scan",
                    .what = "the recurrence; chunked: step, tiled or aten, as auto does on a CPU",
                    .forms = forms_of_scan(),
                    .cases = nullptr};

Impl choose(const ScanInputs& in, const Tensor& state, Impl impl) {
  // Beyond a few tokens matrix products win.
  constexpr int64_t kFewTokens = 8;
  if (impl == Impl::Auto)
    impl = takes(Impl::Cuda, in, state) ? Impl::Cuda : Impl::Chunked;
  if (impl == Impl::Chunked)
    impl = in.q.size(1) <= kFewTokens && takes(Impl::Step, in, state) ? Impl::Step
           : takes(Impl::Tiled, in, state)                            ? Impl::Tiled
                                                                      : Impl::Aten;
  if (!takes(impl, in, state))
    refuse(impl, in, state);
  return impl;
}

namespace {

/// Whether there is nothing to compute, whatever the program.
bool is_empty(const ScanInputs& in, const Tensor& state) {
  return in.q.size(1) == 0 && state.is_cpu();
}

Tensor no_outputs(const ScanInputs& in) {
  return at::empty_like(in.v, at::MemoryFormat::Contiguous);
}

}  // namespace

namespace {

ScanResult scan_cuda(const ScanInputs& in, const Tensor& state) {
  return kernels::decay_scan_cuda(in, state);
}

ScanResult run(Impl program, const ScanInputs& in, const Tensor& state) {
  switch (program) {
    case Impl::Cuda:
      return needs_gradient(in, state)
                 ? kernels::with_gradient(scan_cuda, kernels::decay_scan_backward_cuda, in, state)
                 : scan_cuda(in, state);
    case Impl::Step: {
      const Tensor next = at::empty(state.sizes(), state.options());
      const Tensor y = kernels::decay_scan_step(in, state, next);
      return {y, next};
    }
    case Impl::Tiled:
      return kernels::decay_scan_tiled(in, state);
    case Impl::Reference:
      return needs_gradient(in, state)
                 ? kernels::with_gradient(kernels::decay_scan_cpu, kernels::decay_scan_backward_cpu,
                                          in, state)
                 : kernels::decay_scan_cpu(in, state);
    default:
      return kernels::decay_scan_aten(in, state);
  }
}

/// The same new state, written over the old one.
Tensor run_in_place(Impl program, const ScanInputs& in, const Tensor& state) {
  if (program == Impl::Cuda)
    return kernels::decay_scan_cuda_in_place(in, state);
  if (program == Impl::Step)
    return kernels::decay_scan_step(in, state, state);
  const ScanResult out = run(program, in, state);
  state.copy_(out.state);
  return out.y;
}

/// f(the inputs as the program takes them): with a log decay in place of a gate if need be.
template <class F>
auto with_taken(Impl program, const ScanInputs& in, const Tensor& state, const F& f) {
  if (!in.gate || takes_gate(program, in, state))
    return f(in);
  const ScanInputs stored = with_log_decay(in);
  check_decay(stored);
  return f(stored);
}

}  // namespace

ScanResult decay_scan(const ScanInputs& given, const Tensor& state, Impl impl) {
  check_scan(given, state);
  if (is_empty(given, state))
    return {no_outputs(given), state.clone()};
  const Impl program = choose(given, state, impl);
  return with_taken(program, given, state,
                    [&](const ScanInputs& in) { return run(program, in, state); });
}

Tensor decay_scan_in_place(const ScanInputs& given, const Tensor& state, Impl impl) {
  check_scan(given, state);
  check(!needs_gradient(given, state) && state.is_contiguous(), kBug,
        "decay_scan: a state is written over only if it is dense and no gradient is wanted");
  if (is_empty(given, state))
    return no_outputs(given);
  const Impl program = choose(given, state, impl);
  return with_taken(program, given, state,
                    [&](const ScanInputs& in) { return run_in_place(program, in, state); });
}

}  // namespace stuffed::ops
