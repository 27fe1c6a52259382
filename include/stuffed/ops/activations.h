// Functions of each number by itself, in f32 whatever the type and rounded once: one pass over
// memory on a GPU, a few ATen operators elsewhere and under autograd. Without a gradient, the number
// of threads changes no bit of them.
#pragma once
#include "stuffed/core/tensor.h"

namespace stuffed::ops {

/// x sigmoid(x) and 1 / (1 + exp(-x)); x of any shape, its type.
Tensor silu(const Tensor& x);
Tensor sigmoid(const Tensor& x);

/// silu(a) * b and sigmoid(a) * b; a, b of one shape and type, which is kept.
Tensor silu_product(const Tensor& a, const Tensor& b);
Tensor sigmoid_product(const Tensor& a, const Tensor& b);

/// relu(a)^2, a's type.
Tensor relu_square(const Tensor& a);

/// -exp(a + offset): a log decay in nats. a [...,D]; offset [D] f32; f32.
Tensor negative_exp(const Tensor& a, const Tensor& offset);

/// log(1 + exp(a + offset)): a step. a [...,D]; offset [D] f32; f32.
Tensor softplus(const Tensor& a, const Tensor& offset);

struct ForgetGate {
  Tensor insert;      // a's type: 1 - forget, without the cancellation
  Tensor log_forget;  // f32, nats, <= 0
};

/// forget = low + (1 - low) sigmoid(a). a [...,D]; low [D] f32 in [0, 1), undefined: 0.
ForgetGate forget_gate(const Tensor& a, const Tensor& low);

}  // namespace stuffed::ops
