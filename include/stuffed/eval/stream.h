// The one loop: a long stream through a model, a segment at a time.
#pragma once
#include <functional>
#include <span>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

struct Segment {
  int64_t begin;   // absolute position of the first input
  Tensor inputs;   // [B,T] int64
  Tensor targets;  // [B,T] int64: targets[b,t] follows inputs[b,t]
  Output out;
};

/// Feeds tokens [B,N+1] as N (input, target) pairs, `length` at a time; segments end at absolute
/// multiples of `length` (and of `stride`, if it is not 0), and at the positions in `cuts`, which
/// ascend. Every position is scored exactly once.
void stream(const RecurrentLM& model,
            const Recurrence& rule,
            const Tensor& tokens,
            State& state,
            int64_t length,
            const std::function<void(const Segment&)>& on_segment,
            int64_t stride = 0,
            std::span<const int64_t> cuts = {});

}  // namespace stuffed::eval
