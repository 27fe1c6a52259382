// What every launch needs: a GPU the kernels were built for, made current, its stream, and an error
// that names the kernel.
#pragma once
#include <c10/core/DeviceGuard.h>

#include "kernels/common/cuda_kernels.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// Whether the kernels of this build run on x's device: a GPU of compute capability 8.0 or newer.
/// LibTorch takes older ones too.
inline bool runs_kernels(const Tensor& x) {
  return x.is_cuda() && cuda_library() != nullptr &&
         cuda_library()->capability_major(x.device().index()) >= 8;
}

/// Throws Unsupported where there are none.
inline const CudaKernels& cuda_kernels() {
  stuffed::check(cuda_library() != nullptr, Error::Kind::Unsupported,
                 "no CUDA kernels can be run: {}", why_no_cuda());
  return *cuda_library()->kernels;
}

class CudaCall {
 public:
  explicit CudaCall(const Tensor& x) : guard_(x.device()) {}

  void* stream() const { return cuda_library()->stream(); }

  /// `error` is a cudaError_t. Throws Memory or Internal.
  void check(int32_t error, const char* what) const {
    if (error != 0)
      fail(cuda_library()->is_out_of_memory(error) ? Error::Kind::Memory : Error::Kind::Internal,
           "{}: CUDA reports {}", what, cuda_library()->error_text(error));
  }

 private:
  c10::DeviceGuard guard_;
};

}  // namespace stuffed::kernels
