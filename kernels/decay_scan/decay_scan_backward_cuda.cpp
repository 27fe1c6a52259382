// The CUDA backward pass, from tensors to its parameters.
#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "kernels/decay_scan/decay_scan_backward.h"
#include "kernels/decay_scan/decay_scan_backward_params.h"
#include "kernels/decay_scan/decay_scan_cuda_params.h"

namespace stuffed::kernels {

namespace {

/// Gradients in f32 where the kernels write them, in the places of what they are by.
ScanGradients empty_gradients(const ScanInputs& in, const Tensor& state) {
  ScanGradients out{in, at::empty(state.sizes(), state.options())};
  visit_tensors(out.in,
                [&](const ScanField&, Tensor& x) { x = at::empty(x.sizes(), state.options()); });
  if (in.bonus)  // one per sequence, which are summed here
    out.in.bonus = at::empty({state.size(0), state.size(1), state.size(2)}, state.options());
  return out;
}

float* data_of(const std::optional<Tensor>& x) {
  return x ? x->mutable_data_ptr<float>() : nullptr;
}

void launch_backward(const ScanInputs& in,
                     const Tensor& state,
                     const Tensor& dy,
                     const Tensor& dstate,
                     const ScanGradients& out) {
  DecayScanBackwardParams p{.scan = params_of(in, state),
                            .dy = view_of(dy, "bthc"),
                            .dstate = dstate.const_data_ptr<float>(),
                            .of_q = out.in.q.mutable_data_ptr<float>(),
                            .of_k = out.in.k.mutable_data_ptr<float>(),
                            .of_v = out.in.v.mutable_data_ptr<float>(),
                            .of_log_decay = out.in.log_decay.mutable_data_ptr<float>(),
                            .of_scale = data_of(out.in.v_scale),
                            .of_bonus = data_of(out.in.bonus),
                            .of_bonus_key = data_of(out.in.bonus_k),
                            .of_state = out.state.mutable_data_ptr<float>()};
  const Tensor workspace =
      at::empty({cuda_kernels().decay_scan_backward_workspace(&p)}, state.options());
  p.workspace = workspace.mutable_data_ptr<float>();
  const CudaCall call(state);
  call.check(cuda_kernels().decay_scan_backward(&p, call.stream()), "decay_scan_backward");
}

}  // namespace

bool decay_scan_backward_cuda_takes(const ScanInputs& in, const Tensor& state) {
  constexpr int64_t kWidest = 128;
  const auto known = [](const Tensor& x) {
    return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat;
  };
  return runs_kernels(in.q) && decay_scan_backward_takes(in) && known(in.q) && known(in.k) &&
         known(in.v) && state.scalar_type() == at::kFloat && in.q.size(3) <= kWidest &&
         in.v.size(3) <= kWidest;
}

ScanGradients decay_scan_backward_cuda(const ScanInputs& given,
                                       const Tensor& given_state,
                                       const Tensor& dy,
                                       const Tensor& dstate) {
  const c10::DeviceGuard guard(given_state.device());
  const ScanInputs in = in_one_type(given);
  const Tensor state = given_state.contiguous();
  ScanGradients out = empty_gradients(in, state);
  if (in.v.numel() > 0 && state.numel() > 0) {
    launch_backward(in, state, dy.to(in.v.scalar_type()), dstate.to(at::kFloat).contiguous(), out);
    if (in.bonus)
      out.in.bonus = out.in.bonus->sum(0);
  } else {
    visit_tensors(out.in, [](const ScanField&, Tensor& x) { x.zero_(); });
    if (in.bonus)
      out.in.bonus = at::zeros_like(*in.bonus);
    out.state = dstate.clone();
  }
  std::vector<at::ScalarType> types;
  visit_tensors(given,
                [&](const ScanField&, const Tensor& x) { types.push_back(x.scalar_type()); });
  size_t next = 0;
  visit_tensors(out.in, [&](const ScanField&, Tensor& x) { x = x.to(types[next++]); });
  return out;
}

}  // namespace stuffed::kernels
