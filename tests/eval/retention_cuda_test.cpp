// retention on a GPU: the same weights, half-lives and distances as on the CPU.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "src/eval/retention/suffix_walk.h"
#include "stuffed/eval/decay_intervals.h"
#include "tests/support/golden.h"

#if STUFFED_WITH_CUDA

namespace stuffed::eval {
namespace {

using testing::close;
using testing::Golden;
using testing::golden_path;

struct Measured {
  std::vector<Tensor> effrem;
  DecayIntervals decays;
};

Measured measure(const std::string& name, at::Device device) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path(name), {.dtype = at::kFloat, .device = device});
  const Tensor tokens = Golden(name).get("long_tokens").narrow(1, 0, 1001);
  const std::vector<SuffixPoint> points = {{500, {1, 7, 200, 500}}, {1000, {3, 64, 700}}};
  const std::vector<Interval> intervals = {{1, 500}, {137, 1000}, {990, 1000}};
  Measured measured;
  measured.decays.watch(model->config().layers, intervals, intervals);
  const auto rule = build_recurrence({.mitigations = {}, .observer = &measured.decays});
  measured.effrem = effective_remembrance(*model, *rule, tokens, points, 512);
  return measured;
}

TEST(CudaRetention, EqualsTheCpusInEveryFamily) {
  for (const char* name :
       {"mamba2-hf", "mamba1-hf", "hgrn2-fla", "rwkv5-pth", "rwkv6-hf", "rwkv7-pth"}) {
    SCOPED_TRACE(name);
    const Measured cpu = measure(name, at::kCPU), gpu = measure(name, at::Device("cuda:0"));
    for (size_t i = 0; i < cpu.effrem.size(); ++i)
      EXPECT_TRUE(close(gpu.effrem[i], cpu.effrem[i], 1e-3));
    EXPECT_TRUE(close(gpu.decays.weights().mean, cpu.decays.weights().mean, 1e-3));
    EXPECT_TRUE(close(gpu.decays.weights().most, cpu.decays.weights().most, 1e-3));
    // A weight may pass 1/2 a token earlier or later where it is all but 1/2.
    const Tensor apart = (gpu.decays.lived() - cpu.decays.lived()).abs();
    EXPECT_LE(apart.max().item<int64_t>(), 1);
    EXPECT_LE(apart.to(at::kDouble).mean().item<double>(), 0.02);
  }
}

}  // namespace
}  // namespace stuffed::eval

#endif
