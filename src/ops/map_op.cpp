#include "map_op.h"

#include "kernels/map/map_cases.h"
#include "stuffed/core/error.h"

namespace stuffed::ops {

namespace {

constexpr Programs<MapInputs, MapResult, 4> kMaps = {{
    {Impl::Cuda, kernels::map_cuda_takes, kernels::map_cuda},
    {Impl::Fast, kernels::map_fast_takes, kernels::map_fast},
    {Impl::Aten, kernels::map_aten_takes, kernels::map_aten},
    {Impl::Reference, kernels::map_cpu_takes, kernels::map_cpu},
}};

std::vector<OpCase> cases_of_map() {
  std::vector<OpCase> cases;
  add_cases(kMaps, kernels::map_cases(), cases);
  return cases;
}

}  // namespace

const Op map_op = {.name = "map",
                   .what = "gates, activations and the token shift's mix, each number by itself",
                   .forms = forms_of(kMaps),
                   .cases = cases_of_map};

MapResult map(const MapInputs& in) {
  check(!in.b.defined() || in.b.sizes() == in.a.sizes(), Error::Kind::Internal,
        "{}: [{}] with [{}]", kernels::map_name(in.map), fmt::join(in.a.sizes(), ","),
        fmt::join(in.b.sizes(), ","));
  check(!in.w.defined() || in.w.numel() == in.a.size(-1), Error::Kind::Internal,
        "{}: {} parameters for {} channels", kernels::map_name(in.map), in.w.numel(),
        in.a.size(-1));
  return dispatch(map_op, kMaps, in);
}

Impl map_form(const MapInputs& in) {
  return choose(map_op, kMaps, in).form;
}

}  // namespace stuffed::ops
