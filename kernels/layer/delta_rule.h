// What RWKV-7's gates are made of, and they: ops/delta_rule.h says how.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed {

/// A layer's parameters, f32. D = heads * width.
struct DeltaRuleParameters {
  Tensor decay_base, rate_base;  // [D]
  Tensor value_base;             // [D]; undefined: values are taken as they are
  Tensor read_scale;             // [D]: of the raw key, which makes the direction that is erased
  Tensor rate_scale;             // [D]: how far the rate weakens a key
  Tensor bonus;                  // [heads,width]
};

/// The projections, [B,T,D] in the activations' type.
struct DeltaRuleStreams {
  Tensor query, key, value;
  Tensor decay, rate;  // to each of which its base is added
  // Where value_base is given: what is added to it, and the first layer's values.
  Tensor value_mix = {}, first_value = {};
};

struct DeltaRuleGates {
  Tensor key, value, read, write;  // [B,T,D], the activations' type
  Tensor log_decay;                // [B,T,D] f32, nats
  Tensor strength;                 // [B,T,heads] f32: of the present value in the output
};

}  // namespace stuffed
