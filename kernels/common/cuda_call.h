// What every launch needs: a GPU the kernels were built for, made current, its stream, and an error
// that names the kernel.
#pragma once
#include "stuffed/core/error.h"
#include "stuffed/core/tensor.h"

#if STUFFED_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace stuffed::kernels {

/// Whether the kernels of this build run on x's device: a GPU of compute capability 8.0 or newer.
/// LibTorch takes older ones too.
inline bool runs_kernels(const Tensor& x) {
  int major = 0;
  return x.is_cuda() &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.device().index()) ==
             cudaSuccess &&
         major >= 8;
}

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
#else
namespace stuffed::kernels {
inline bool runs_kernels(const Tensor&) {
  return false;
}
}  // namespace stuffed::kernels
#endif
