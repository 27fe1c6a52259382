// What the tests of the layer's CUDA kernels share. They compare with f64 on the CPU, through views
// of a wide parent full of NaN.
//
// Building with -DCMAKE_CUDA_FLAGS=-DSTUFFED_BREAK_LAYER=1 makes norms and convolutions 1 % too
// large: then CudaLayer.NormsAgree and ShortConvolutionsAgree must fail.
#pragma once
#include <array>

#include <ATen/core/grad_mode.h>

#include "kernels/common/testing.h"

namespace stuffed::testing {

inline constexpr std::array kTypes = {at::kFloat, at::kBFloat16};

/// [B,T,C] inside a wider parent whose other columns are NaN.
inline Tensor view(int64_t B, int64_t T, int64_t C, at::ScalarType type, double scale = 1) {
  Tensor parent = at::full({B, T, C + 24}, NAN, at::TensorOptions(type).device(at::kCUDA));
  Tensor x = parent.narrow(2, 8, C);
  x.copy_(at::randn({B, T, C}) * scale);
  return x;
}

inline Tensor parameter(at::IntArrayRef shape) {
  return at::randn(shape).to(at::kCUDA);
}

/// Memory that the next result will probably reuse holds NaN, so an element nobody wrote shows.
inline void poison(const Tensor& like) {
  const Tensor a = at::full(like.sizes(), NAN, like.options());
  const Tensor b = at::full(like.sizes(), NAN, like.options().dtype(at::kFloat));
}

class CudaLayer : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(7); }
  at::NoGradGuard no_grad_;
};

}  // namespace stuffed::testing
