// What the launcher tells the device code of a backward pass.
#pragma once
#include "kernels/decay_scan/decay_scan_params.h"

namespace stuffed::kernels {

/// One call. Of `scan` the inputs and state_in are read. Outputs are dense f32; those of [B,T,H,K]
/// or [B,T,H,V] in that order of axes.
struct DecayScanBackwardParams {
  DecayScanParams scan;           // q, k, v, log_decay, v_scale, bonus, bonus_k, state_in
  View dy;                        // of the type of values
  const float* dstate = nullptr;  // [B,H,K,V]
  float* of_q = nullptr;          // [B,T,H,K]
  float* of_k = nullptr;          // [B,T,H,K]
  float* of_v = nullptr;          // [B,T,H,V]
  float* of_log_decay = nullptr;  // [B,T,H,K], or [B,T,H] for one decay per head
  float* of_scale = nullptr;      // [B,T,H], or null
  float* of_bonus = nullptr;      // [B,H,K], to be summed over B; null without a bonus
  float* of_bonus_key = nullptr;  // [B,T,H,K], or null
  float* of_state = nullptr;      // [B,H,K,V]
  float* workspace = nullptr;     // stuffed_decay_scan_backward_workspace() floats
};

extern "C" {

/// Floats of scratch memory that a call needs: a state per 64 tokens.
int64_t stuffed_decay_scan_backward_workspace(const DecayScanBackwardParams* params);

/// Queues the kernels on a cudaStream_t and returns its cudaError_t. Never waits for the device.
int32_t stuffed_decay_scan_backward(const DecayScanBackwardParams* params, void* stream);
}

}  // namespace stuffed::kernels
