// libstuffed_cuda.so: the launches of the kernels, and what else is asked of CUDA. It needs LibTorch
// and nothing of the program that opens it.
#include "stuffed/core/cuda_library.h"

#include <algorithm>
#include <exception>
#include <memory>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include "kernels/common/cuda_kernels.h"
#include "kernels/cuda_library/nccl.h"

namespace stuffed {

namespace {

namespace cache = c10::cuda::CUDACachingAllocator;

std::string error_text(int error) {
  const auto code = static_cast<cudaError_t>(error);
  return std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code);
}

bool is_out_of_memory_code(int error) {
  return error == cudaErrorMemoryAllocation;
}

void* stream() {
  return c10::cuda::getCurrentCUDAStream().stream();
}

int capability_major(int index) {
  int major = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  return error == cudaSuccess ? major : 0;
}

std::string device_name(int index) {
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, index) == cudaSuccess ? properties.name : "unknown";
}

std::string bus_id(int index) {
  char bus[32] = {};
  return cudaDeviceGetPCIBusId(bus, sizeof bus, index) == cudaSuccess ? bus : "";
}

int free_memory(int index, size_t* free) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
  size_t total = 0;
  return cudaMemGetInfo(free, &total);
}

cache::DeviceStats stats_of(int index) {
  return cache::getDeviceStats(static_cast<c10::DeviceIndex>(index));
}

size_t unused_memory(int index) {
  const auto stats = stats_of(index);  // [0]: all pools together
  return static_cast<size_t>(stats.reserved_bytes[0].current - stats.allocated_bytes[0].current);
}

void release_unused() {
  cache::emptyCache();
}

void reset_peak(int index) {
  cache::resetPeakStats(static_cast<c10::DeviceIndex>(index));
}

int64_t peak(int index) {
  return stats_of(index).allocated_bytes[0].peak;
}

struct Events {
  cudaEvent_t begin = nullptr, end = nullptr;
  ~Events() {
    for (const cudaEvent_t event : {begin, end})
      if (event)
        cudaEventDestroy(event);
  }
};

int time(const std::function<void()>& prepare, const std::function<void()>& body, double* seconds) {
  Events events;
  for (cudaEvent_t* event : {&events.begin, &events.end})
    if (const cudaError_t error = cudaEventCreate(event); error != cudaSuccess)
      return error;
  const auto record = [](cudaEvent_t event) {
    return cudaEventRecord(event, c10::cuda::getCurrentCUDAStream().stream());
  };
  prepare();  // queued: while it runs, the launches of `body` line up behind it
  if (const cudaError_t error = record(events.begin); error != cudaSuccess)
    return error;
  body();
  if (const cudaError_t error = record(events.end); error != cudaSuccess)
    return error;
  if (const cudaError_t error = cudaEventSynchronize(events.end); error != cudaSuccess)
    return error;
  float milliseconds = 0;
  const cudaError_t error = cudaEventElapsedTime(&milliseconds, events.begin, events.end);
  *seconds = milliseconds * 1e-3;
  return error;
}

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
      cache::endAllocateToPool(device, pool);
      cache::releasePool(device, pool);
    } catch (const std::exception&) {
      // It had ended: nothing to do.
    }
  }
  (void)cudaGetLastError();
  // Allocators may have kept a callback into the object, and nothing tells whether they did. A few
  // hundred bytes, once in a process that has a reason to fall back.
  (void)graph.release();
}

/// Null if the recording failed: `why_not` says why.
std::unique_ptr<at::cuda::CUDAGraph> capture(const std::function<void()>& work,
                                             std::string* why_not) {
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  const c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  try {
    graph->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    work();
    graph->capture_end();
  } catch (const std::exception& error) {
    *why_not = "recording a step failed: " + first_line(error);
    abandon(std::move(graph), c10::cuda::current_device(), pool);
    graph.reset();
  }
  return graph;
}

std::function<void()> record(at::Device device,
                             const std::function<void()>& work,
                             std::string* why_not) {
  const c10::cuda::CUDAGuard device_guard(device);
  c10::cuda::device_synchronize();  // what the work reads is there
  std::shared_ptr<at::cuda::CUDAGraph> graph;
  {
    const c10::cuda::CUDAStreamGuard stream_guard(
        c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
    // Libraries set up workspaces and pick kernels on first use, which cannot be recorded.
    for (int i = 0; i < 2; ++i)
      work();
    c10::cuda::device_synchronize();
    graph = capture(work, why_not);
  }
  c10::cuda::device_synchronize();
  if (!graph)
    return nullptr;
  return [graph] { graph->replay(); };
}

constexpr kernels::CudaKernels kKernels = {
    .decay_scan_plan = kernels::stuffed_decay_scan_plan,
    .decay_scan_workspace = kernels::stuffed_decay_scan_workspace,
    .decay_scan_launch = kernels::stuffed_decay_scan_launch,
    .decay_scan_f64 = kernels::stuffed_decay_scan_f64,
    .decay_scan_backward_workspace = kernels::stuffed_decay_scan_backward_workspace,
    .decay_scan_backward = kernels::stuffed_decay_scan_backward,
    .delta_rule = kernels::stuffed_delta_rule,
    .map = kernels::stuffed_map,
    .nll = kernels::stuffed_nll,
    .norm = kernels::stuffed_norm,
    .shift_mixes = kernels::stuffed_shift_mixes,
    .short_conv = kernels::stuffed_short_conv,
};

constexpr CudaLibrary kLibrary = {
    .compiler = STUFFED_CUDA_COMPILER,
    .kernels = &kKernels,
    .error_text = error_text,
    .is_out_of_memory = is_out_of_memory_code,
    .stream = stream,
    .capability_major = capability_major,
    .device_name = device_name,
    .bus_id = bus_id,
    .free_memory = free_memory,
    .unused_memory = unused_memory,
    .release_unused_memory = release_unused,
    .reset_peak_memory = reset_peak,
    .peak_memory = peak,
    .time = time,
    .record = record,
    .all_reduce = STUFFED_WITH_NCCL ? nccl_all_reduce : nullptr,
};

}  // namespace

}  // namespace stuffed

extern "C" __attribute__((visibility("default"))) const stuffed::CudaLibrary*
stuffed_cuda_library() {
  return &stuffed::kLibrary;
}
