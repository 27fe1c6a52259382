#include "stuffed/ops/short_conv.h"

#include <ATen/ATen.h>

#include "dispatch.h"
#include "kernels/short_conv/short_conv_cases.h"
#include "stuffed/core/error.h"

namespace stuffed::ops {

namespace {

using kernels::ShortConvInputs;

constexpr Programs<ShortConvInputs, ConvResult, 4> kConvolutions = {{
    {Impl::Cuda, kernels::short_conv_cuda_takes, kernels::short_conv_cuda},
    {Impl::Fast, kernels::short_conv_fast_takes, kernels::short_conv_fast},
    {Impl::Aten, kernels::short_conv_aten_takes, kernels::short_conv_aten},
    {Impl::Reference, kernels::short_conv_cpu_takes, kernels::short_conv_cpu},
}};

std::vector<OpCase> cases_of_short_conv() {
  std::vector<OpCase> cases;
  add_cases(kConvolutions, kernels::short_conv_cases(), cases);
  return cases;
}

}  // namespace

extern const Op short_conv_op;
const Op short_conv_op = {.name = "short_conv",
                          .what = "the causal convolution of two to four taps",
                          .forms = forms_of(kConvolutions),
                          .cases = cases_of_short_conv};

ConvResult short_conv(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& columns, bool silu) {
  check(x.dim() == 3 && weight.dim() == 2 && weight.size(0) == x.size(2) && columns.dim() == 3 &&
            columns.size(2) == weight.size(1) - 1,
        Error::Kind::Internal,
        "short_conv: x [{}], weight [{}], columns [{}]; expected [B,T,C], [C,W], [B,C,W-1]",
        fmt::join(x.sizes(), ","), fmt::join(weight.sizes(), ","), fmt::join(columns.sizes(), ","));
  return dispatch(short_conv_op, kConvolutions,
                  {.x = x, .weight = weight, .bias = bias, .columns = columns, .silu = silu});
}

}  // namespace stuffed::ops
