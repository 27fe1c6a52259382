// What a pass over a checkpoint costs: peak resident memory against the weights in their target
// type. Files are made here, or named in STUFFED_BENCH_FILE, as scripts/bench/load.py does to time
// larger ones.
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <malloc.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

/// A field of /proc/self/status, in bytes: VmRSS now, VmHWM since the last reset_peak().
int64_t memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == field + ":") {
      int64_t kibibytes = 0;
      status >> kibibytes;
      return kibibytes * 1024;
    }
  return -1;
}

/// What earlier tests freed goes back to the system first: the allocator would hand it out again,
/// and the growth of the peak would miss that much.
void reset_peak() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

struct Cost {
  double ratio = 0;  // growth of the peak over the bytes of the loaded weights
  double seconds = 0;
};

/// Loads every tensor, converts it, and lets its pages go: as a model's loader does.
Cost load_all(const fs::path& path, at::ScalarType dtype) {
  reset_peak();
  const int64_t before = memory("VmRSS");
  const auto start = std::chrono::steady_clock::now();
  std::vector<Tensor> weights;
  int64_t bytes = 0;
  const auto file = TensorFile::open(path);
  for (const auto& [name, entry] : file.entries()) {
    weights.push_back(file.load(name).to(dtype, /*non_blocking=*/false, /*copy=*/true));
    file.release(name);
    bytes += static_cast<int64_t>(weights.back().nbytes());
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return {static_cast<double>(memory("VmHWM") - before) / static_cast<double>(bytes),
          taken.count()};
}

TEST(LoadSlow, PeakMemoryStaysNearTheWeights) {
  const testing::TempFolder folder;
  fs::path path = folder / "model.safetensors";
  if (const char* named = std::getenv("STUFFED_BENCH_FILE")) {
    path = named;
  } else {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (int i = 0; i < 32; ++i)
      tensors.emplace_back(fmt::format("layer.{}", i), at::ones({2048, 2048}, at::kBFloat16));
    write_safetensors(path, tensors);
  }
  for (const auto dtype : {at::kBFloat16, at::kFloat}) {
    const Cost cost = load_all(path, dtype);
    std::printf("%s %s: %.2f s, peak %.3f x weights\n", path.filename().c_str(),
                c10::toString(dtype), cost.seconds, cost.ratio);
    EXPECT_GE(cost.ratio, 0.9) << "the peak was not measured";
    EXPECT_LE(cost.ratio, 1.15) << c10::toString(dtype);
  }
}

}  // namespace
}  // namespace stuffed::io
