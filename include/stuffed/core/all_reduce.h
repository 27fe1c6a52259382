// A sum over the processes of a distributed run.
#pragma once
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/core/tensor.h"

namespace stuffed {

/// Another rank is gone: a failure of which nothing else is known.
inline constexpr Error::Kind kRankLost = Error::Kind::Disagreement;

class AllReduce {
 public:
  virtual ~AllReduce() = default;
  /// Every tensor becomes its sum over all ranks, with the same bits on each of them. All ranks give
  /// contiguous tensors of the same shapes in the same order, all of one type and on one device.
  /// Errors  kRankLost if another rank is gone
  virtual void sum(const std::vector<Tensor>& tensors) = 0;
};

}  // namespace stuffed
