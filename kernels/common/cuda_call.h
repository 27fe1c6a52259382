// What every launch needs: the tensor's device made current, its stream, and an error that names
// the kernel.
#pragma once
#include "stuffed/core/error.h"
#include "stuffed/core/tensor.h"

#if STUFFED_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace stuffed::kernels {

class CudaCall {
 public:
  explicit CudaCall(const Tensor& x) : guard_(x.device()) {}

  void* stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

  /// `error` is a cudaError_t. Throws Memory or Internal.
  void check(int32_t error, const char* what) const {
    const auto code = static_cast<cudaError_t>(error);
    stuffed::check(code == cudaSuccess,
                   code == cudaErrorMemoryAllocation ? Error::Kind::Memory : Error::Kind::Internal,
                   "{}: CUDA reports {}: {}", what, cudaGetErrorName(code),
                   cudaGetErrorString(code));
  }

 private:
  c10::cuda::CUDAGuard guard_;
};

}  // namespace stuffed::kernels
#endif
