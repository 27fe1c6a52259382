#pragma once
#include "stuffed/ops/linear.h"

namespace stuffed::ops {

/// nll[b,t] in nats, f32: -log softmax(head(hidden))[target]. At most `rows` rows of logits exist
/// at a time; under autograd each block of logits is recomputed in the backward pass. Columns at
/// and beyond `vocab` do not exist.
///
/// Shapes  hidden [B,T,D]; targets [B,T] int64 in [0, vocab)
/// Types   logits in hidden's dtype times weight, log-softmax in f32
Tensor linear_cross_entropy(const Tensor& hidden,
                            const Linear& head,
                            int64_t vocab,
                            const Tensor& targets,
                            int64_t rows = 1024);

}  // namespace stuffed::ops
