// Gradients of the recurrence: with G_t the gradient of a loss by the state S_t,
//
//   G_t = q_t dy_t^T + exp(log_decay_{t+1}) * G_{t+1}           without bonus; G_T includes dstate
//   G_t = exp(log_decay_{t+1}) * G_{t+1} + q_{t+1} dy_{t+1}^T   with bonus
//   dq_t = S_t dy_t (with bonus S_{t-1} dy_t and the bonus's own),  dk_t = G_t v_t,  dv_t = G_t^T k_t
//   dlog_decay_t = exp(log_decay_t) * sum over columns of G_t * S_{t-1}
//
// a recurrence of the same form that runs from the last token to the first, and reads the states of
// the first one.
#pragma once
#include <functional>

#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

/// Each tensor is the gradient by the tensor in its place: of its shape (axes that were expanded
/// included, so that what expanded them sums) and of its type.
struct ScanGradients {
  ScanInputs in;
  Tensor state;
};

using ScanFunction = std::function<ScanResult(const ScanInputs&, const Tensor& state)>;
using ScanBackward = std::function<ScanGradients(
    const ScanInputs&, const Tensor& state, const Tensor& dy, const Tensor& dstate)>;

/// Whether the functions below take these inputs: a stored log decay and no erase term.
bool decay_scan_backward_takes(const ScanInputs& in);

/// The specification: plain loops, f64 accumulation, on the CPU. `dy` and `dstate` are the gradients
/// by the scan's outputs, of their shapes. Keeps all states of a head: 8 T K V bytes.
ScanGradients decay_scan_backward_cpu(const ScanInputs& in,
                                      const Tensor& state,
                                      const Tensor& dy,
                                      const Tensor& dstate);

/// Three walks on a GPU, f32 state and sums. K and V up to 128. The log decay's gradient is exact to
/// some 1e-6 of q dq, from which it is summed.
bool decay_scan_backward_cuda_takes(const ScanInputs& in, const Tensor& state);
ScanGradients decay_scan_backward_cuda(const ScanInputs& in,
                                       const Tensor& state,
                                       const Tensor& dy,
                                       const Tensor& dstate);

/// scan(in, state), of which autograd knows that `backward` gives the gradients. Of the scan only its
/// inputs are kept.
ScanResult with_gradient(const ScanFunction& scan,
                         const ScanBackward& backward,
                         const ScanInputs& in,
                         const Tensor& state);

}  // namespace stuffed::kernels
