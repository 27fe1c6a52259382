// What a model asks of the recurrence, seen with a single token.
#pragma once
#include <functional>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed {

/// An observer that is a function.
class Watch : public Observer {
 public:
  using OnUpdate = std::function<void(Where, const ScanInputs& in, const LayerState& after)>;
  explicit Watch(OnUpdate on_update) : on_update_(std::move(on_update)) {}
  void on_update(Where where, const ScanInputs& in, const LayerState& after) override {
    on_update_(where, in, after);
  }

 private:
  OnUpdate on_update_;
};

/// Feeds token 0 to the model in its initial state: one update per layer, which `rule` tells its
/// observer of.
void feed_one_token(const RecurrentLM& model, const Recurrence& rule);

}  // namespace stuffed
