// Tensor maps, made by the driver: what tells the copy engine the sizes and strides of a view.
#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels::scan {

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, or null; looked up, because nothing here is linked with the driver.
Encode encode_function() {
  static const Encode found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(entry)
               : nullptr;
  }();
  return found;
}

constexpr int64_t kAligned = 16;         // bytes, of addresses and strides
constexpr int64_t kStrides = 1LL << 40;  // bytes, not reached
constexpr int64_t kCoordinates = 1LL << 31;

}  // namespace

bool on_hopper() {
  return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 && encode_function() != nullptr;
}

bool takes_boxes(const View& view, int64_t tokens, const Box& box) {
  for (const int64_t stride : {view.b, view.t, view.h})
    if (stride < 0 || stride >= kStrides / box.element || stride * box.element % kAligned != 0)
      return false;
  return view.c == 1 && (view.t > 0 || tokens == 1) && tokens < kCoordinates - kBlock &&
         reinterpret_cast<uintptr_t>(view.data) % kAligned == 0;
}

cudaError_t make_tensor_map(
    CUtensorMap& map, const View& view, const DecayScanParams& p, int channels, const Box& box) {
  const auto size = [](int64_t elements, int64_t stride) {
    return static_cast<cuuint64_t>(stride == 0 ? 1 : elements);
  };
  const auto bytes = [&](int64_t stride) {
    return static_cast<cuuint64_t>(stride == 0 ? kAligned : stride * box.element);
  };
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(channels), size(p.heads, view.h),
                              size(p.tokens, view.t), size(p.batch, view.b)};
  const cuuint64_t strides[] = {bytes(view.h), bytes(view.t), bytes(view.b)};
  const cuuint32_t extent[] = {static_cast<cuuint32_t>(kTileRow / box.element), 1,
                               static_cast<cuuint32_t>(box.tokens), 1};
  const cuuint32_t dense[] = {1, 1, 1, 1};
  const auto type =
      box.element == 4 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult result =
      encode_function()(&map, type, 4, const_cast<void*>(view.data), sizes, strides, extent, dense,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

View output_view(const DecayScanParams& p) {
  View y;
  y.data = p.y;
  y.c = 1;
  y.h = p.columns;
  y.t = p.heads * y.h;
  y.b = p.tokens * y.t;
  return y;
}

}  // namespace stuffed::kernels::scan
