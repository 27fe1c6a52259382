// The recurrence all families share, as a contract between models, mitigations and implementations.
#pragma once
#include <cstdint>
#include <optional>

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

/// Rank-one erasure of the delta rule (RWKV-7): S loses write_t (read_t^T S_{t-1}) before k_t v_t^T
/// is added. `read` sees the state before it is decayed.
struct Erase {
  Tensor read;   // [B,T,H,K], unit norm
  Tensor write;  // [B,T,H,K]
};

/// One segment of inputs. Shapes, types and units: stuffed/ops/decay_scan.h.
/// Any tensor may be an expanded or sliced view; only the last axis of q, k and v must be dense or
/// have stride 0.
struct ScanInputs {
  Tensor q, k;            // [B,T,H,K]
  Tensor v;               // [B,T,H,V]
  Tensor log_decay = {};  // [B,T,H,K] or [B,T,H,1] f32; undefined if factored_decay is given
  std::optional<Tensor> v_scale = {};  // [B,T,H] f32; multiplies v where it enters the state
  std::optional<Tensor> bonus = {};    // [H,K] f32; present: y reads the state before its update
  std::optional<FactoredDecay> factored_decay = {};
  std::optional<Erase> erase = {};
  std::optional<Tensor> bonus_k = {};  // [B,T,H,K]; the bonus term's key, if not k (mitigations)
};

struct ScanResult {
  Tensor y;      // [B,T,H,V], type of v
  Tensor state;  // [B,H,K,V] f32, freshly allocated
};

namespace kernels {

/// The specification: plain loops over tokens, f64 accumulation, any input the contract allows.
/// Slow.
ScanResult decay_scan_cpu(const ScanInputs& in, const Tensor& state);

/// A few tokens on the CPU in f32, one after the other: what decoding runs. Writes the new state to
/// `to`, dense and of state's shape, which may be `state` itself; returns y.
Tensor decay_scan_step(const ScanInputs& in, const Tensor& state, const Tensor& to);

/// Whether decay_scan_step is for such inputs: T <= 8, f32 state on the CPU; reads no data.
bool decay_scan_step_takes(const ScanInputs& in, const Tensor& state);

/// Whether this build has a CUDA kernel for inputs of this kind (types, widths, options); reads no
/// data.
bool decay_scan_cuda_takes(const ScanInputs& in);

/// Our CUDA kernels. Throws Unsupported in a build without them, and for inputs they do not take.
ScanResult decay_scan_cuda(const ScanInputs& in, const Tensor& state);

/// The same, and the new state is written over `state`, which must be dense.
Tensor decay_scan_cuda_in_place(const ScanInputs& in, const Tensor& state);

}  // namespace kernels
}  // namespace stuffed
