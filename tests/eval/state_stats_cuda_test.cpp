// state-stats on a GPU: the same reductions as on the CPU, and an observer that changes no bit.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "src/eval/state_stats/state_observer.h"
#include "stuffed/eval/stream.h"
#include "support/golden.h"

#if STUFFED_WITH_CUDA

namespace stuffed::eval {
namespace {

using testing::bitwise_equal;
using testing::close;

Tensor random(std::vector<int64_t> shape) {
  return at::randn(shape, at::detail::createCPUGenerator(3), at::TensorOptions(at::kFloat));
}

TEST(CudaHeadStatistics, EqualTheCpus) {
  for (const auto& shape : {std::vector<int64_t>{24, 128, 64}, {32, 64, 64}, {500, 16, 1}}) {
    Tensor state = random(shape) * 3 + 1;
    state[1].zero_();
    const auto cpu = state_statistics(state), gpu = state_statistics(state.cuda());
    for (size_t i = 0; i < cpu.size(); ++i)
      EXPECT_TRUE(close(gpu[i], cpu[i], 1e-12)) << kStateStatistics.at(i);
    EXPECT_TRUE(bitwise_equal(gpu[5], cpu[5])) << "the lower median";
    EXPECT_TRUE(
        close(effective_rank(state.cuda()).nan_to_num(), effective_rank(state).nan_to_num(), 1e-9));
  }
  ChannelMoments cpu, gpu;
  const Tensor x = random({1, 3000, 1, 128}).expand({1, 3000, 24, 128});
  cpu.add(x);
  gpu.add(x.narrow(2, 0, 1).cuda().expand(x.sizes()));
  EXPECT_TRUE(close(gpu.result().mean, cpu.result().mean, 1e-12));
  EXPECT_TRUE(close(gpu.result().layer_variance, cpu.result().layer_variance, 1e-12));
}

struct Outcome {
  std::map<std::string, Tensor> arrays;
  Tensor hidden;
};

Outcome feed(const std::string& layout, at::Device device, bool observed) {
  at::NoGradGuard no_grad;
  constexpr int64_t kStride = 128;
  const auto model =
      load_model(testing::golden_path(layout), {.dtype = at::kFloat, .device = device});
  StateObserver observer(*model, {.stride = kStride, .histogram_at = {256}},
                         resolve_indices({}, model->config().layers, ""), {0, 1});
  const auto rule =
      build_recurrence({.mitigations = {}, .observer = observed ? &observer : nullptr});
  State state = model->initial_state(1);
  std::vector<Tensor> hidden;
  stream(
      *model, *rule, testing::Golden(layout).get("long_tokens").narrow(1, 0, 601), state, 300,
      [&](const Segment& segment) {
        hidden.push_back(segment.out.hidden);
        const int64_t end = segment.begin + segment.inputs.size(1);
        if (observed && end % kStride == 0)
          observer.end_sample(end);
      },
      kStride);
  const NamedTensors arrays = observed ? observer.take() : NamedTensors();
  return {{arrays.begin(), arrays.end()}, at::cat(hidden, 1)};
}

TEST(CudaStateStats, EqualTheCpusAndChangeNoBit) {
  for (const std::string layout :
       {"mamba2-hf", "mamba1-hf", "hgrn2-fla", "rwkv5-pth", "rwkv6-hf", "rwkv7-pth"}) {
    const Outcome cpu = feed(layout, at::kCPU, true), gpu = feed(layout, at::kCUDA, true);
    EXPECT_TRUE(bitwise_equal(gpu.hidden, feed(layout, at::kCUDA, false).hidden)) << layout;
    for (const auto& [name, expected] : cpu.arrays) {
      if (name.starts_with("histogram."))  // an element near an edge may fall on the other side
        continue;
      const bool cancels = name == "state.mean" || name == "state.median";
      const Tensor& scale = cpu.arrays.at("state.rms");
      EXPECT_TRUE(cancels ? close(gpu.arrays.at(name) - expected + scale, scale, 1e-4)
                          : close(gpu.arrays.at(name).nan_to_num(), expected.nan_to_num(), 1e-4))
          << layout << " " << name;
    }
    EXPECT_EQ(gpu.arrays.at("histogram.counts").sum().item<int64_t>(),
              cpu.arrays.at("histogram.counts").sum().item<int64_t>());
  }
}

}  // namespace
}  // namespace stuffed::eval

#endif
