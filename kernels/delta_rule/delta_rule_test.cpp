// Every form of RWKV-7's gates and outputs against the reference; the CUDA kernel through views.
#include "kernels/delta_rule/delta_rule.h"

#include <gtest/gtest.h>

#include "kernels/common/cuda_testing.h"
#include "stuffed/ops/delta_rule.h"
#include "tests/support/op_forms.h"

namespace stuffed {
namespace {

TEST(DeltaRule, EveryFormAgreesWithTheReference) {
  testing::expect_forms_agree("delta_rule", {"aten"}, {"cuda", "aten"});
}

#if STUFFED_WITH_CUDA

using testing::bound_of;
using testing::close;
using testing::CudaLayer;
using testing::kTypes;
using testing::parameter;
using testing::poison;
using testing::view;
using testing::wide;

/// What delta_rule_gates is to make, written down once more in f64.
DeltaRuleGates delta_rule_f64(const DeltaRuleStreams& in, const DeltaRuleParameters& p) {
  const int64_t heads = p.bonus.size(0), width = p.bonus.size(1);
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, {heads, width}); };
  const Tensor key = wide(in.key), rate = at::sigmoid(wide(in.rate) + wide(p.rate_base));
  const Tensor direction = to_heads(key * wide(p.read_scale));
  const Tensor read = direction / direction.square().sum(-1, true).sqrt().clamp_min(1e-12);
  const Tensor weaker = key * (1 + (rate - 1) * wide(p.rate_scale));
  Tensor value = wide(in.value);
  if (p.value_base.defined())
    value = value +
            (wide(in.first_value) - value) * at::sigmoid(wide(in.value_mix) + wide(p.value_base));
  return {.key = weaker,
          .value = value,
          .read = read.flatten(-2),
          .write = (read * to_heads(rate)).flatten(-2),
          .log_decay = -0.606531 * at::sigmoid(wide(in.decay) + wide(p.decay_base)),
          .strength = (to_heads(wide(in.query)) * to_heads(weaker) * wide(p.bonus)).sum(-1)};
}

TEST_F(CudaLayer, DeltaRuleGatesAgree) {
  for (const auto type : kTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {32, 64}, {3, 128}, {5, 60}, {2, 4}})
      for (const bool mixes : {false, true}) {
        const int64_t D = heads * width;
        const auto stream = [&, D = D] { return view(2, 7, D, type, 2); };
        DeltaRuleStreams in{.query = stream(),
                            .key = stream(),
                            .value = stream(),
                            .decay = stream(),
                            .rate = stream()};
        in.key[0][0].zero_();  // a direction without a length
        if (mixes)
          in.value_mix = stream(), in.first_value = stream();
        const DeltaRuleParameters p{.decay_base = parameter({D}),
                                    .rate_base = parameter({D}),
                                    .value_base = mixes ? parameter({D}) : Tensor(),
                                    .read_scale = parameter({D}),
                                    .rate_scale = parameter({D}),
                                    .bonus = parameter({heads, width})};
        poison(in.key);
        const auto actual = ops::delta_rule_gates(in, p);
        const auto expected = delta_rule_f64(in, p);
        const double bound = bound_of(type);
        EXPECT_TRUE(close(actual.key, expected.key, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.value, expected.value, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.read, expected.read, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.write, expected.write, bound)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.log_decay, expected.log_decay, 1e-6)) << heads << ' ' << width;
        EXPECT_TRUE(close(actual.strength, expected.strength, 1e-6)) << heads << ' ' << width;
      }
}

TEST_F(CudaLayer, DeltaRuleOutputsAgree) {
  for (const auto type : kTypes)
    for (const auto& [heads, width] :
         {std::pair<int64_t, int64_t>{1, 64}, {32, 64}, {3, 128}, {5, 60}}) {
      const int64_t D = heads * width;
      const Tensor y = view(2, 7, D, type), value = view(2, 7, D, type), gate = view(2, 7, D, type);
      const Tensor strength = parameter({2, 7, heads}), weight = parameter({D}),
                   bias = parameter({D});
      const Tensor normal =
          at::layer_norm(wide(y).unflatten(-1, {heads, width}), {width}, {}, {}, 64e-5).flatten(-2);
      const Tensor now =
          (wide(strength).unsqueeze(-1) * wide(value).unflatten(-1, {heads, width})).flatten(-2);
      poison(y);
      EXPECT_TRUE(close(ops::delta_rule_output(y, value, strength, gate, weight, bias, 64e-5),
                        (normal * wide(weight) + wide(bias) + now) * wide(gate), bound_of(type)))
          << heads << ' ' << width;
    }
}

#endif

}  // namespace
}  // namespace stuffed
