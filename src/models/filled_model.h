// A model of a checkpoint whose shapes are known and whose values are not.
#pragma once
#include <functional>

#include "stuffed/models/registry.h"

namespace stuffed {

/// Recognises the checkpoint and lets `fill` make the parameters (none if it is empty: sizes only).
std::unique_ptr<RecurrentLM> filled_model(const Checkpoint& checkpoint,
                                          const std::function<void(RecurrentLM&)>& fill,
                                          const LoadOptions& options);

/// Random values made where and in the type they are used, a function of (seed, name, device).
/// Gates are normal with deviation 0.5, so that every term of the recurrence takes part.
class RandomFiller : public ParameterVisitor {
 public:
  RandomFiller(uint64_t seed, at::ScalarType dtype, at::Device device)
      : seed_(seed), dtype_(dtype), device_(device) {}
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;

 private:
  uint64_t seed_;
  at::ScalarType dtype_;
  at::Device device_;
};

}  // namespace stuffed
