// What the launcher tells the device code: pointers, sizes and strides, without any Torch type.
#pragma once
#include <cstdint>

#include "kernels/decay_scan/decay_scan_terms.h"

namespace stuffed::kernels {

/// A view whose element [b,t,h,c] lies at data + b*B + t*T + h*H + c*C elements. A broadcast axis
/// has stride 0. Null if the input is absent.
struct View {
  const void* data = nullptr;
  int64_t b = 0, t = 0, h = 0, c = 0;
};

/// One call. Every view counts in elements of its own type; `values` is the type of q, k, v,
/// bonus_k, read, write, gate and y; all else is f32. Outputs and state_in are dense.
struct DecayScanParams {
  int64_t batch = 0, tokens = 0, heads = 0;  // B, T, H
  int32_t keys = 0, columns = 0;             // K, V
  int32_t is_bf16 = 0;                       // type of values: bf16 or f32
  int32_t has_vector_decay = 0;              // log_decay has a channel axis
  View q, k, v;
  View log_decay;                   // nats per token
  View v_scale;                     // [B,T,H]
  View bonus;                       // [H,K]
  View bonus_k;                     // [B,T,H,K]; k if null
  View step, rate;                  // factored decay: [B,T,H], [H,K]
  float offset = 0;                 // factored decay: nats per token
  View read, write;                 // erase: [B,T,H,K]
  const float* state_in = nullptr;  // [B,H,K,V]
  float* state_out = nullptr;       // [B,H,K,V]
  void* y = nullptr;                // [B,T,H,V]
  float* workspace = nullptr;       // workspace_floats() of the plan
  View gate;                        // raw, [B,T,H,K], in place of log_decay and, if Forget, of k
  View base;                        // of the gate: [H,K]; 0 if null
  GateKind gate_kind = GateKind::None;
};

/// How T is cut into segments that run side by side. Segment 0 holds `first` blocks of 64 tokens
/// and the others `each`; the last holds what is left.
struct DecayScanPlan {
  // 0 chunked scalar decay, 1 chunked vector decay, 2 token by token, 3 factored decay,
  // 4 chunked scalar decay on Hopper, 5 chunked vector decay on Hopper, 6 factored decay in tiles,
  // 7 chunked vector decay on Hopper without a bonus, K = V = 128, 8 chunked erase on Hopper;
  // -1 none: no kernel takes this gate raw
  int32_t path = 0;
  int32_t segments = 1;  // 1, or at least 3
  int64_t first = 0, each = 0;
};

extern "C" {

/// Picks the path and the segments for these inputs on the current device. `segments` > 0 asks for
/// that many (2 counts as 1; fewer are taken if T has too few blocks); 0 lets a cost model decide.
/// The result depends on sizes and on the device only, so equal calls give equal bits.
DecayScanPlan stuffed_decay_scan_plan(const DecayScanParams* params, int32_t segments);

/// Floats of scratch memory that a call with this plan needs at `workspace`.
int64_t stuffed_decay_scan_workspace(const DecayScanParams* params, const DecayScanPlan* plan);

/// Queues the kernels on a cudaStream_t and returns its cudaError_t. Never waits for the device.
int32_t stuffed_decay_scan_launch(const DecayScanParams* params,
                                  const DecayScanPlan* plan,
                                  void* stream);

/// The specification on the GPU: token by token in f64, for tests and benchmarks at lengths the CPU
/// reference is too slow for. Writes y as f64 [B,T,H,V] and the state as f64 [B,H,K,V]; `params->y`
/// and `state_out` are not touched.
int32_t stuffed_decay_scan_f64(const DecayScanParams* params,
                               double* y,
                               double* state,
                               void* stream);
}

}  // namespace stuffed::kernels
