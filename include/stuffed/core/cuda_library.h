// All that needs LibTorch's CUDA libraries is in libstuffed_cuda.so, which is opened at run time: one
// build serves machines with a GPU and without.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Store;
}

namespace stuffed {

class AllReduce;
namespace kernels {
struct CudaKernels;
}

/// What that library does. `index` is a GPU's. Codes are of cudaError_t, 0 for success.
struct CudaLibrary {
  const char* compiler;  // version, such as "13.0"
  const kernels::CudaKernels* kernels;

  std::string (*error_text)(int code);  // "NAME: what it means"
  bool (*is_out_of_memory)(int code);
  void* (*stream)();  // the current cudaStream_t of the current device

  int (*capability_major)(int index);  // 0 if it does not say
  std::string (*device_name)(int index);
  std::string (*bus_id)(int index);             // empty if it does not say
  int (*free_memory)(int index, size_t* free);  // bytes that no process holds
  size_t (*unused_memory)(int index);           // bytes that LibTorch holds and no tensor uses
  void (*release_unused_memory)();
  void (*reset_peak_memory)(int index);
  int64_t (*peak_memory)(int index);  // bytes of tensors

  /// Seconds that the current device takes for `body`, queued behind `prepare`.
  int (*time)(const std::function<void()>& prepare,
              const std::function<void()>& body,
              double* seconds);
  /// Runs `work` twice and then records it; see record_graph. What replays it, or null.
  std::function<void()> (*record)(at::Device device,
                                  const std::function<void()>& work,
                                  std::string* why_not);

  /// By NCCL, between GPU `index` and those of the other ranks, which find one another in the store;
  /// null in a build without NCCL's header.
  std::unique_ptr<AllReduce> (*all_reduce)(const c10::intrusive_ptr<c10d::Store>& store,
                                           int rank,
                                           int size,
                                           int index);
};

/// The one of this process, or null: see why_no_cuda. The first call opens it where there is an
/// NVIDIA driver; it must come before LibTorch is asked for GPUs, which asks itself only once.
const CudaLibrary* cuda_library();

/// Whether there is one for NVIDIA's GPUs. GPUs there may be none.
bool has_nvidia_driver();

/// Why there is none, and what to try; empty if there is one.
const std::string& why_no_cuda();

/// Opens the file `library`, driver or no driver.
/// Returns  null if it cannot be, and says why in `why_not`
const CudaLibrary* open_cuda_library(const std::filesystem::path& library, std::string& why_not);

}  // namespace stuffed
