// From tensors to the CUDA kernels' parameters.
#include "kernels/decay_scan/decay_scan_cuda.h"

#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/decay_scan/decay_scan_cuda_params.h"
#include "stuffed/core/error.h"

namespace stuffed::kernels {

ScanResult decay_scan_cuda(const ScanInputs& in, const Tensor& state) {
  return decay_scan_cuda(in, state, 0);
}

View view_of(const Tensor& x, std::string_view axes) {
  View view;
  view.data = x.const_data_ptr();
  for (size_t i = 0; i < axes.size(); ++i) {
    int64_t& stride = axes[i] == 'b'   ? view.b
                      : axes[i] == 't' ? view.t
                      : axes[i] == 'h' ? view.h
                                       : view.c;
    stride = x.size(static_cast<int64_t>(i)) == 1 ? 0 : x.stride(static_cast<int64_t>(i));
  }
  return view;
}

ScanInputs in_one_type(ScanInputs in) {
  bool is_one = true;
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    is_one &= !field.is_stream || x.scalar_type() == in.v.scalar_type();
  });
  if (!is_one)
    visit_tensors(in, [](const ScanField& field, Tensor& x) {
      if (field.is_stream)
        x = x.to(at::kFloat);
    });
  return in;
}

DecayScanParams params_of(const ScanInputs& in, const Tensor& state) {
  DecayScanParams p;
  p.batch = in.q.size(0);
  p.tokens = in.q.size(1);
  p.heads = in.q.size(2);
  p.keys = static_cast<int32_t>(in.q.size(3));
  p.columns = static_cast<int32_t>(in.v.size(3));
  p.is_bf16 = in.v.scalar_type() == at::kBFloat16;
  p.q = view_of(in.q, "bthc");
  if (in.k.defined())
    p.k = view_of(in.k, "bthc");
  p.v = view_of(in.v, "bthc");
  if (in.factored_decay) {
    p.step = view_of(in.factored_decay->step, "bth");
    p.rate = view_of(in.factored_decay->rate, "hc");
    p.offset = static_cast<float>(in.factored_decay->offset);
  } else if (in.gate) {
    p.gate = view_of(in.gate->raw, "bthc");
    p.gate_kind = in.gate->kind;
    if (in.gate->base)
      p.base = view_of(*in.gate->base, "hc");
    p.has_vector_decay = true;
  } else {
    p.log_decay = view_of(in.log_decay, "bthc");
    p.has_vector_decay = in.log_decay.size(3) > 1;
  }
  if (in.v_scale)
    p.v_scale = view_of(*in.v_scale, "bth");
  if (in.bonus)
    p.bonus = view_of(*in.bonus, "hc");
  if (in.bonus_k)
    p.bonus_k = view_of(*in.bonus_k, "bthc");
  if (in.erase) {
    p.read = view_of(in.erase->read, "bthc");
    p.write = view_of(in.erase->write, "bthc");
  }
  if (state.defined())
    p.state_in = state.const_data_ptr<float>();
  return p;
}

namespace {

/// Whether a kernel makes the decays of this gate itself.
bool takes_gate(const ScanInputs& in) {
  bool is_bf16 = true;
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    is_bf16 &= !field.is_stream || x.scalar_type() == at::kBFloat16;
  });
  if (!is_bf16)
    return false;
  const c10::DeviceGuard guard(in.q.device());
  const DecayScanParams p = params_of(in, {});
  return cuda_kernels().decay_scan_plan(&p, /*segments=*/1).path >= 0;
}

void check_taken(const ScanInputs& in, const Tensor& state) {
  check(decay_scan_cuda_takes(in) && state.scalar_type() == at::kFloat && state.is_cuda(),
        Error::Kind::Unsupported,
        "decay_scan: no CUDA kernel takes q {} [{}], v [{}] and state {} on {} (a GPU of compute "
        "capability 8.0 or newer is needed); use --impl aten",
        toString(in.q.scalar_type()), fmt::join(in.q.sizes(), ","), fmt::join(in.v.sizes(), ","),
        toString(state.scalar_type()), state.device().str());
}

}  // namespace

bool decay_scan_cuda_takes(const ScanInputs& in) {
  const auto known = [](const Tensor& x) {
    return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat;
  };
  if (in.gate)
    return runs_kernels(in.q) && takes_gate(in);
  if (!runs_kernels(in.q) || !known(in.q) || !known(in.k) || !known(in.v))
    return false;
  if (in.factored_decay)
    return in.q.size(3) <= 16 && in.v.size(3) == 1 && !in.bonus && !in.erase;
  return in.q.size(3) <= 128;
}

namespace {

/// Queues the kernels; `state_out` may be `state` if the plan allows.
void launch(const ScanInputs& in, const Tensor& state, int segments, const ScanResult& out) {
  DecayScanParams p = params_of(in, state);
  p.y = out.y.mutable_data_ptr();
  p.state_out = out.state.mutable_data_ptr<float>();
  const DecayScanPlan plan = cuda_kernels().decay_scan_plan(&p, segments);
  const Tensor workspace =
      at::empty({cuda_kernels().decay_scan_workspace(&p, &plan)}, state.options());
  p.workspace = workspace.mutable_data_ptr<float>();
  const CudaCall call(state);
  call.check(cuda_kernels().decay_scan_launch(&p, &plan, call.stream()), "decay_scan");
}

// With at most so many tokens every kernel that may run keeps the state in registers from its
// first token to its last, and no two threads share an element: it may be written where it was.
constexpr int64_t kTokensInPlace = 8;

}  // namespace

ScanResult decay_scan_cuda(const ScanInputs& given, const Tensor& given_state, int segments) {
  check_taken(given, given_state);
  const c10::DeviceGuard guard(given_state.device());
  const ScanInputs in = in_one_type(given);
  const Tensor state = given_state.contiguous();
  ScanResult out{at::empty(in.v.sizes(), in.v.options()), at::empty_like(state)};
  if (state.numel() > 0)
    launch(in, state, segments, out);
  out.y = out.y.to(given.v.scalar_type());
  return out;
}

int decay_scan_cuda_path(const ScanInputs& given, const Tensor& given_state) {
  check_taken(given, given_state);
  const c10::DeviceGuard guard(given_state.device());
  const ScanInputs in = in_one_type(given);
  const DecayScanParams p = params_of(in, given_state.contiguous());
  return cuda_kernels().decay_scan_plan(&p, 0).path;
}

Tensor decay_scan_cuda_in_place(const ScanInputs& given, const Tensor& state) {
  if (given.q.size(1) > kTokensInPlace || !state.is_contiguous()) {
    const ScanResult out = decay_scan_cuda(given, state);
    state.copy_(out.state);
    return out.y;
  }
  check_taken(given, state);
  const c10::DeviceGuard guard(state.device());
  const ScanInputs in = in_one_type(given);
  const Tensor y = at::empty(in.v.sizes(), in.v.options());
  if (state.numel() > 0)
    launch(in, state, /*segments=*/1, {y, state});
  return y.to(given.v.scalar_type());
}

ScanResult decay_scan_cuda_f64(const ScanInputs& given, const Tensor& given_state) {
  const CudaCall call(given_state);
  const ScanInputs in = in_one_type(given);
  const Tensor state = given_state.contiguous();
  const auto options = state.options().dtype(at::kDouble);
  ScanResult out{at::empty(in.v.sizes(), options), at::empty(state.sizes(), options)};
  if (state.numel() > 0) {
    const DecayScanParams p = params_of(in, state);
    call.check(cuda_kernels().decay_scan_f64(&p, out.y.mutable_data_ptr<double>(),
                                             out.state.mutable_data_ptr<double>(), call.stream()),
               "decay_scan_f64");
  }
  return out;
}

}  // namespace stuffed::kernels
