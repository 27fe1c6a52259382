// The op behind activations.h, step_gates.h and token_shift.h.
#pragma once
#include "dispatch.h"
#include "kernels/map/map.h"

namespace stuffed::ops {

using kernels::Map;
using kernels::MapInputs;
using kernels::MapResult;

extern const Op map_op;

/// Checks the arguments, chooses a form and runs it.
/// Errors  Internal if a shape is against the contract; Unsupported as choose()
MapResult map(const MapInputs& in);

/// The form that map() would run.
Impl map_form(const MapInputs& in);

}  // namespace stuffed::ops
