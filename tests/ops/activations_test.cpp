#include "stuffed/ops/activations.h"

#include <functional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace stuffed {
namespace {

/// Gives the number of threads back.
class Threads {
 public:
  Threads() : before_(at::get_num_threads()) {}
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_;
};

TEST(Activations, NumberOfThreadsChangesNoBit) {
  const Threads back;
  // Three sequences of rows that no number of vectors fills, more than LibTorch gives one thread.
  const Tensor x = 3 * at::randn({3, 131, 301}), low = at::rand({301}), offset = at::randn({301});
  const std::function<Tensor()> functions[] = {[&] { return ops::silu(x); },
                                               [&] { return ops::sigmoid(x.narrow(2, 3, 290)); },
                                               [&] { return ops::silu(x.to(at::kBFloat16)); },
                                               [&] { return ops::silu_product(x, x); },
                                               [&] { return ops::sigmoid_product(x, x); },
                                               [&] { return ops::softplus(x, offset); },
                                               [&] { return ops::negative_exp(x, offset); },
                                               [&] { return ops::relu_square(x); },
                                               [&] { return ops::forget_gate(x, low).insert; },
                                               [&] { return ops::forget_gate(x, low).log_forget; }};
  for (const auto& f : functions) {
    at::set_num_threads(1);
    const Tensor expected = f();
    for (const int threads : {2, 3, 4, 7}) {
      at::set_num_threads(threads);
      EXPECT_TRUE(at::equal(f(), expected)) << "function " << &f - functions << ", " << threads;
    }
  }
}

TEST(Activations, OfTrainedParametersWithoutAGradient) {
  const Tensor x = at::randn({3, 131, 301}).requires_grad_();
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::allclose(ops::sigmoid(x), at::sigmoid(x)));
  EXPECT_TRUE(at::allclose(ops::softplus(x, at::zeros({301})), at::softplus(x)));
}

TEST(Activations, AreTheFunctionsTheyName) {
  const Tensor x = 5 * at::randn({2, 200, 301}), wide = x.to(at::kDouble);
  EXPECT_LE((ops::sigmoid(x) - at::sigmoid(wide)).abs().max().item<double>(), 2e-7);
  EXPECT_LE((ops::silu(x) - at::silu(wide)).abs().max().item<double>(), 3e-6);
  EXPECT_EQ(ops::sigmoid(x).sizes(), x.sizes());
}

}  // namespace
}  // namespace stuffed
