// Every form of an operation against its reference in f64, as `stuffed verify` compares them.
#pragma once
#include <set>
#include <string>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/check/verify.h"

namespace stuffed::testing {

/// `on_cpu`: the forms that must have been compared on the CPU, and on a GPU `on_gpu`.
inline void expect_forms_agree(const std::string& op,
                               const std::set<std::string>& on_cpu,
                               const std::set<std::string>& on_gpu) {
  const at::NoGradGuard no_grad;
  std::vector<at::Device> devices = {at::kCPU};
  if (STUFFED_WITH_CUDA && at::hasCUDA() && at::getNumGPUs() > 0)
    devices.push_back(at::Device("cuda:0"));
  std::set<std::string> cpu, gpu;
  const auto look = [&](const eval::Verdict& verdict, bool done) {
    if (!done)
      return;
    (verdict.device == "cpu" ? cpu : gpu).insert(verdict.impl);
    EXPECT_TRUE(verdict.agrees()) << verdict.key() << ": " << verdict.output_error << ", "
                                  << verdict.worst;
  };
  eval::verify_kernels({.devices = devices, .op = op, .huge = false}, look);
  EXPECT_EQ(cpu, on_cpu);
  EXPECT_EQ(gpu, devices.size() > 1 ? on_gpu : std::set<std::string>{});
}

}  // namespace stuffed::testing
