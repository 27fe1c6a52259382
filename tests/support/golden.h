// Tiny checkpoints in published layouts, with what the upstream code computed on them.
#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/models/registry.h"

namespace stuffed::testing {

inline std::filesystem::path golden_path(const std::string& name) {
  return std::filesystem::path(STUFFED_SOURCE_DIR) / "tests" / "golden" / name;
}

/// Every FAMILY-LAYOUT that has a checkpoint in tests/golden.
inline std::vector<std::string> goldens() {
  std::vector<std::string> names;
  for (const auto& folder : std::filesystem::directory_iterator(golden_path("")))
    if (std::filesystem::exists(folder.path() / "golden.safetensors"))
      names.push_back(folder.path().filename().string());
  std::ranges::sort(names);
  return names;
}

/// For tests that take a golden's name as their parameter.
inline std::string name_of_golden(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

/// What upstream computed: tokens [1,150], logits [150,rows] f32, nll [149], greedy [8],
/// long_tokens [1,2048], long_nll [2047].
struct Golden {
  explicit Golden(const std::string& name)
      : file(io::TensorFile::open(golden_path(name) / "golden.safetensors")) {}
  Tensor get(const std::string& key) const { return file.load(key).clone(); }
  io::TensorFile file;
};

/// Logits [T,vocab] f32 of hidden rows [1,T,D].
inline Tensor logits_of(const RecurrentLM& model, const Tensor& hidden) {
  return ops::linear(hidden, model.head().linear)
      .to(at::kFloat)
      .squeeze(0)
      .narrow(-1, 0, model.head().vocab);
}

/// nll [N] f64 of tokens [1,N+1], fed in segments of `length`.
inline Tensor segmented_nll(const RecurrentLM& model,
                            const Tensor& tokens,
                            int64_t length,
                            const Recurrence& rule = plain_scan()) {
  State state = model.initial_state(1);
  std::vector<Tensor> parts;
  const int64_t pairs = tokens.size(1) - 1;
  for (int64_t begin = 0; begin < pairs; begin += length) {
    const int64_t count = std::min(length, pairs - begin);
    const Tensor hidden = model.forward(tokens.narrow(1, begin, count), state, rule).hidden;
    const Tensor log_probs = at::log_softmax(logits_of(model, hidden), -1, at::kDouble);
    parts.push_back(
        -log_probs.gather(1, tokens.narrow(1, begin + 1, count).view({-1, 1})).squeeze(1));
  }
  return at::cat(parts);
}

}  // namespace stuffed::testing
