// From tensors to the parameters of the CUDA kernels.
#pragma once
#include <string_view>

#include "kernels/decay_scan/decay_scan.h"
#include "kernels/decay_scan/decay_scan_params.h"

namespace stuffed::kernels {

/// `axes` names the tensor's axes by the letters of View.
View view_of(const Tensor& x, std::string_view axes);

/// The inputs with all streams of one type: the kernels read either bf16 or f32.
ScanInputs in_one_type(ScanInputs in);

/// All that is read; `state` may be undefined. The tensors must outlive what is launched.
DecayScanParams params_of(const ScanInputs& in, const Tensor& state);

}  // namespace stuffed::kernels
