#include "decode_graph.h"

#include <exception>

#include <fmt/format.h>

#if STUFFED_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>
#endif

namespace stuffed::eval {

#if STUFFED_WITH_CUDA

namespace {

class CapturedGraph : public DecodeGraph {
 public:
  void replay() override { graph->replay(); }
  std::unique_ptr<at::cuda::CUDAGraph> graph = std::make_unique<at::cuda::CUDAGraph>();
};

std::string first_line(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch ? torch->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

/// Leaves a capture that went wrong: the stream and the allocator must work as before.
void abandon(std::unique_ptr<at::cuda::CUDAGraph> graph,
             c10::DeviceIndex device,
             c10::MempoolId_t pool) {
  try {
    graph->capture_end();
  } catch (const std::exception&) {  // says again that the capture is invalid
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device, pool);
      c10::cuda::CUDACachingAllocator::releasePool(device, pool);
    } catch (const std::exception&) {
      // It had ended: nothing to do.
    }
  }
  (void)cudaGetLastError();
  // Allocators may have kept a callback into the object, and nothing tells whether they did. A few
  // hundred bytes, once in a process that has a reason to fall back.
  (void)graph.release();
}

}  // namespace

std::unique_ptr<DecodeGraph> record_graph(at::Device device,
                                          const std::function<void()>& work,
                                          std::string& why_not) {
  const c10::cuda::CUDAGuard device_guard(device);
  c10::cuda::device_synchronize();  // what the work reads is there
  auto captured = std::make_unique<CapturedGraph>();
  {
    const c10::cuda::CUDAStreamGuard stream_guard(
        c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
    // Libraries set up workspaces and pick kernels on first use, which cannot be recorded.
    for (int i = 0; i < 2; ++i)
      work();
    c10::cuda::device_synchronize();
    const c10::MempoolId_t pool = at::cuda::graph_pool_handle();
    try {
      captured->graph->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      work();
      captured->graph->capture_end();
    } catch (const std::exception& error) {
      why_not = fmt::format("recording a step failed: {}", first_line(error));
      abandon(std::move(captured->graph), c10::cuda::current_device(), pool);
      captured.reset();
    }
  }
  c10::cuda::device_synchronize();
  return captured;
}

#else

std::unique_ptr<DecodeGraph> record_graph(at::Device,
                                          const std::function<void()>&,
                                          std::string& why_not) {
  why_not = "this build has no CUDA";
  return nullptr;
}

#endif

}  // namespace stuffed::eval
