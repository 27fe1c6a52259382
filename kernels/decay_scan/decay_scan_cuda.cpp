// The CUDA entry point of a build that has no CUDA kernels.
#include "kernels/decay_scan/decay_scan.h"
#include "stuffed/core/error.h"

namespace stuffed::kernels {

bool decay_scan_cuda_takes(const ScanInputs&) {
  return false;
}

ScanResult decay_scan_cuda(const ScanInputs&, const Tensor&) {
  fail(Error::Kind::Unsupported,
       "decay_scan: this build has no CUDA kernels; use --impl chunked, or build with "
       "STUFFED_CUDA=ON");
}

}  // namespace stuffed::kernels
