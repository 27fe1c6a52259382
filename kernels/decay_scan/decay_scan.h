// The recurrence all families share: its contract, its inputs, and the programs that compute it.
//
//   S_t = exp(log_decay_t) * S_{t-1} [- write_t (read_t^T S_{t-1})] + k_t (v_scale_t v_t)^T
//   y_t = q_t^T S_t                                 without bonus (Mamba, HGRN-2, RWKV-7)
//   y_t = q_t^T (S_{t-1} + diag(bonus) k_t v_t^T)   with bonus (RWKV-5, RWKV-6)
//
// Shapes  as in ScanInputs; state [B,H,K,V]; any T, 0 included
// Types   q, k, v and their kin (`is_stream`) bf16 or f32; all else, and the state, f32 (f64
//         throughout in tests); y has the type of v
// Units   log_decay in nats per token, <= 0 (-inf allowed: the state is forgotten exactly)
// Cost    O(B T H K V); allocates y and one new state, never writes its inputs
// Source  arXiv:2405.21060 (Mamba-2), 2404.05892 (RWKV-5/6), 2404.07904 (HGRN-2),
//         2312.00752 (Mamba-1), 2503.14456 (RWKV-7)
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/decay_scan/decay_scan_terms.h"
#include "stuffed/core/tensor.h"

namespace stuffed {

/// A decay given by its factors: log_decay[b,t,h,k] = step[b,t,h] * rate[h,k] + offset.
/// Mamba-1's decay depends on time, channel and state row at once; materialised it would be 256 KB
/// per token and layer, so only its factors are ever stored.
struct FactoredDecay {
  Tensor step;        // [B,T,H] f32, >= 0 (dt)
  Tensor rate;        // [H,K] f32, nats per unit of step, <= 0 (A)
  double offset = 0;  // nats per token, <= 0; not zero only under a mitigation
};

/// A decay as its projection leaves it, with what GateKind says is made of it in f32. Stored, a
/// layer's log decays are twice as large as all else that a bf16 scan reads of them, and keys made
/// of a gate would be stored beside it.
struct RawGate {
  GateKind kind = GateKind::NegativeExp;  // not None
  Tensor raw;                             // [B,T,H,K]
  std::optional<Tensor> base = {};        // [H,K] f32; absent: 0
};

/// Rank-one erasure of the delta rule (RWKV-7): S loses write_t (read_t^T S_{t-1}) before k_t v_t^T
/// is added. `read` sees the state before it is decayed.
struct Erase {
  Tensor read;   // [B,T,H,K], unit norm
  Tensor write;  // [B,T,H,K]
};

/// One segment of inputs. Any tensor may be an expanded or sliced view; only the last axis of q, k,
/// v and their kin must be dense or have stride 0.
struct ScanInputs {
  Tensor q, k;  // [B,T,H,K]; k undefined if the gate gives it (GateKind::Forget)
  Tensor v;     // [B,T,H,V]
  Tensor log_decay =
      {};  // [B,T,H,K] or [B,T,H,1] f32; undefined if gate or factored_decay is given
  std::optional<RawGate> gate = {};
  std::optional<Tensor> v_scale = {};  // [B,T,H] f32; multiplies v where it enters the state
  std::optional<Tensor> bonus = {};    // [H,K] f32; present: y reads the state before its update
  std::optional<FactoredDecay> factored_decay = {};
  std::optional<Erase> erase = {};
  std::optional<Tensor> bonus_k = {};  // [B,T,H,K]; the bonus term's key, if not k (mitigations)
};

/// What a tensor of ScanInputs is.
struct ScanField {
  std::string_view name;
  std::string_view axes;  // by their letters, in order; "c" is K or 1
  bool is_stream;         // in the activations' type rather than in the state's
};

/// Calls f(field, tensor) for each tensor that `in`, a ScanInputs or a const one, holds: the one
/// list of them, always in this order.
template <class Inputs, class F>
void visit_tensors(Inputs& in, const F& f) {
  f(ScanField{"q", "bthk", true}, in.q);
  if (!in.gate || in.gate->kind != GateKind::Forget)
    f(ScanField{"k", "bthk", true}, in.k);
  f(ScanField{"v", "bthv", true}, in.v);
  if (!in.factored_decay && !in.gate)
    f(ScanField{"log_decay", "bthc", false}, in.log_decay);
  if (in.v_scale)
    f(ScanField{"v_scale", "bth", false}, *in.v_scale);
  if (in.bonus)
    f(ScanField{"bonus", "hk", false}, *in.bonus);
  if (in.bonus_k)
    f(ScanField{"bonus_k", "bthk", true}, *in.bonus_k);
  if (in.gate) {
    f(ScanField{"gate.raw", "bthk", true}, in.gate->raw);
    if (in.gate->base)
      f(ScanField{"gate.base", "hk", false}, *in.gate->base);
  }
  if (in.factored_decay) {
    f(ScanField{"factored_decay.step", "bth", false}, in.factored_decay->step);
    f(ScanField{"factored_decay.rate", "hk", false}, in.factored_decay->rate);
  }
  if (in.erase) {
    f(ScanField{"erase.read", "bthk", true}, in.erase->read);
    f(ScanField{"erase.write", "bthk", true}, in.erase->write);
  }
}

struct ScanResult {
  Tensor y;      // [B,T,H,V], type of v
  Tensor state;  // [B,H,K,V] f32, freshly allocated
};

// The programs. None checks its arguments or chooses another: ops/decay_scan.h does. Each `takes`
// reads shapes, types and strides, but no data. A gate is for the specification and for Cuda where
// it takes it; the others get the log decay that is made of it.
namespace kernels {

/// The specification: plain loops over tokens, f64 accumulation, any input the contract allows, on
/// the CPU. Slow.
ScanResult decay_scan_cpu(const ScanInputs& in, const Tensor& state);

/// Tokens one after the other on the CPU in f32: what decoding runs. Writes the new state to `to`,
/// dense and of state's shape, which may be `state` itself; returns y.
bool decay_scan_step_takes(const ScanInputs& in, const Tensor& state);
Tensor decay_scan_step(const ScanInputs& in, const Tensor& state, const Tensor& to);

/// Chunks of tokens on the CPU as products of small tiles that stay in registers and caches, for
/// one decay per head, no bonus and no erase term; f32 state, q, k and v of one type. Sums in f32.
/// A chunk of 64 tokens and its states stay in a core's cache; heads are spread over threads.
bool decay_scan_tiled_takes(const ScanInputs& in, const Tensor& state);
ScanResult decay_scan_tiled(const ScanInputs& in, const Tensor& state);

/// Chunks of `chunk` tokens (16..256; the value changes rounding only) as ATen's matrix products:
/// any input, on any device, differentiable.
ScanResult decay_scan_aten(const ScanInputs& in, const Tensor& state, int64_t chunk = 64);

/// Our CUDA kernels, for the types, widths and options this build has them for: a raw gate on
/// Hopper, of more than a few bf16 tokens. Throws Unsupported in a build without them, and for
/// inputs they do not take.
bool decay_scan_cuda_takes(const ScanInputs& in);
ScanResult decay_scan_cuda(const ScanInputs& in, const Tensor& state);

/// The same, and the new state is written over `state`, which must be dense.
Tensor decay_scan_cuda_in_place(const ScanInputs& in, const Tensor& state);

}  // namespace kernels
}  // namespace stuffed
