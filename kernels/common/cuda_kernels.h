// The launches that libstuffed_cuda.so holds, by operation.
#pragma once
#include "kernels/decay_scan/decay_scan_backward_params.h"
#include "kernels/decay_scan/decay_scan_params.h"
#include "kernels/delta_rule/delta_rule_params.h"
#include "kernels/map/map_params.h"
#include "kernels/nll/nll_params.h"
#include "kernels/norm/norm_params.h"
#include "kernels/shift_mixes/shift_mixes_params.h"
#include "kernels/short_conv/short_conv_params.h"

namespace stuffed::kernels {

struct CudaKernels {
  decltype(&stuffed_decay_scan_plan) decay_scan_plan;
  decltype(&stuffed_decay_scan_workspace) decay_scan_workspace;
  decltype(&stuffed_decay_scan_launch) decay_scan_launch;
  decltype(&stuffed_decay_scan_f64) decay_scan_f64;
  decltype(&stuffed_decay_scan_backward_workspace) decay_scan_backward_workspace;
  decltype(&stuffed_decay_scan_backward) decay_scan_backward;
  decltype(&stuffed_delta_rule) delta_rule;
  decltype(&stuffed_map) map;
  decltype(&stuffed_nll) nll;
  decltype(&stuffed_norm) norm;
  decltype(&stuffed_shift_mixes) shift_mixes;
  decltype(&stuffed_short_conv) short_conv;
};

}  // namespace stuffed::kernels
