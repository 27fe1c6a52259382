// What this binary is: for --version, and for the provenance of every result.
#pragma once
#include <string>

namespace stuffed {

struct BuildInfo {
  std::string version;   // of stuffed, such as "0.1.0"
  std::string commit;    // 40 hex digits, or "unknown" outside a git checkout
  bool dirty;            // tracked files differed from the commit
  std::string libtorch;  // version LibTorch reports at run time
  std::string cuda;      // version of the CUDA compiler, or "none"
  bool cuda_kernels;     // built with our CUDA kernels
};

const BuildInfo& build_info();

/// The lines of `stuffed --version`.
std::string version_text();

}  // namespace stuffed
