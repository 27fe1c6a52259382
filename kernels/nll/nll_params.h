// Losses of rows of logits as its kernel sees it: pointers, sizes and strides.
#pragma once
#include "kernels/common/channels.h"

namespace stuffed::kernels {

/// nll[i] = log sum_c exp(logits[i,c]) - logits[i, target[i]], in f32.
struct NllParams {
  int64_t rows = 0, vocab = 0, stride = 0;  // stride: elements from row to row
  int32_t is_bf16 = 0;
  const void* logits = nullptr;
  const int64_t* targets = nullptr;
  float* nll = nullptr;
};

extern "C" {
// Queues the kernel on a cudaStream_t and returns its cudaError_t. Any number of channels.
int32_t stuffed_nll(const NllParams* params, void* stream);
}

}  // namespace stuffed::kernels
