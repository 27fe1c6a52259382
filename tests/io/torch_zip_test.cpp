#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/tensor_file.h"

namespace stuffed::io {
namespace {

TEST(TorchZip, ReadsEveryGoldenCheckpoint) {
  const fs::path golden = fs::path(STUFFED_SOURCE_DIR) / "tests/golden";
  int zips = 0;
  for (const auto& folder : fs::directory_iterator(golden)) {
    const fs::path weights = find_weights(folder.path());
    const auto file = TensorFile::open(weights);
    EXPECT_GT(file.entries().size(), 10u) << weights;
    for (const auto& [name, entry] : file.entries())
      EXPECT_TRUE(file.load(name).to(at::kFloat).isfinite().all().item<bool>()) << name;
    zips += weights.extension() != ".safetensors";
  }
  EXPECT_GE(zips, 7);
}

}  // namespace
}  // namespace stuffed::io
