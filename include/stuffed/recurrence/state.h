// Everything a model remembers between two calls, as a value.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed {

struct LayerState {
  Tensor recurrent;  // [B,H,K,V] f32
  Tensor conv;       // [B,C,W-1]; undefined if the family has no convolution
  Tensor shift;      // [B,2,D], last inputs of time-mix and channel-mix; undefined elsewhere
  std::map<std::string, Tensor>
      extra;                // slots of mitigations, such as "window.k"; a missing slot means empty
  bool is_private = false;  // a decode session's own: an update may write over `recurrent`
};

/// Updates rebind these tensors and (but for a decode session's) never write through them, so
/// `State snapshot = state;` is a correct clone that costs a few handles.
struct State {
  int64_t position = 0;  // tokens consumed so far
  std::vector<LayerState> layers;

  /// [1,...] -> [copies,...]; axis 0 is B in every tensor. Costs no memory until the copies are
  /// advanced.
  State fork(int64_t copies) const;
  /// Rows `rows` of the batch axis, in that order; a row may repeat.
  State select(at::IntArrayRef rows) const;
  /// Joins states of equal position along the batch axis.
  static State concat(const std::vector<State>& states);
  int64_t bytes() const;
};

}  // namespace stuffed
