// Lets an observer see each update as the model asked for it.
#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

class Observed : public Recurrence {
 public:
  Observed(Inner inner, Observer* observer) : inner_(std::move(inner)), observer_(observer) {}

  Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const override {
    Tensor y = inner_->advance(where, in, layer);
    observer_->on_update(where, ops::with_log_decay(in), layer);
    return y;
  }

  std::string replay_obstacle() const override { return "an observer sees every update"; }

 private:
  Inner inner_;
  Observer* observer_;
};

}  // namespace

Inner make_observed(Inner inner, Observer* observer) {
  return std::make_shared<Observed>(std::move(inner), observer);
}

}  // namespace stuffed::recurrence
