#include "stuffed/core/cuda_library.h"

#include <dlfcn.h>

#include <fmt/format.h>

namespace stuffed {

namespace {

struct Opened {
  const CudaLibrary* library = nullptr;
  std::string why_not;
};

Opened open_for_driver() {
  Opened opened;
  if (!has_nvidia_driver()) {
    opened.why_not = "no NVIDIA driver was found (libcuda.so.1)";
    return opened;
  }
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  opened.library = open_cuda_library(program.parent_path() / "libstuffed_cuda.so", opened.why_not);
  return opened;
}

const Opened& opened() {
  static const Opened once = open_for_driver();
  return once;
}

}  // namespace

const CudaLibrary* open_cuda_library(const std::filesystem::path& library, std::string& why_not) {
  std::error_code error;
  if (!std::filesystem::exists(library, error)) {
    why_not = fmt::format("this is a build for the CPU: there is no {}", library.string());
    return nullptr;
  }
  // Global, as if it had been linked: LibTorch opens more libraries later, which look for its symbols.
  void* handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  void* table = handle ? dlsym(handle, "stuffed_cuda_library") : nullptr;
  if (table == nullptr) {
    why_not = fmt::format("{} cannot be opened ({}); it needs a LibTorch built with CUDA",
                          library.filename().string(), dlerror());
    return nullptr;
  }
  return reinterpret_cast<const CudaLibrary* (*)()>(table)();
}

bool has_nvidia_driver() {
  static const bool found = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
  return found;
}

const CudaLibrary* cuda_library() {
  return opened().library;
}

const std::string& why_no_cuda() {
  return opened().why_not;
}

}  // namespace stuffed
