// Keeps each head's state within the norm it had on text of the training length.
#include <cmath>

#include <ATen/ATen.h>

#include "arguments.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/error.h"
#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

constexpr int64_t kEvery = 128;  // the interval of the code published with arXiv:2410.07145
constexpr int64_t kMostSingleSteps = 65536;

/// After every n-th token of the stream each head's state is multiplied by min(1, limit / norm).
/// What lies between is the inner recurrence: outputs there read the state as it grows.
class ClampNorm : public Recurrence {
 public:
  ClampNorm(Inner inner, Tensor limits, int64_t every, InnerObserver* observer)
      : inner_(std::move(inner)), limits_(std::move(limits)), every_(every), observer_(observer) {}

  Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const override {
    const Tensor limit = limit_of(where.layer, layer.recurrent);
    const int64_t T = in.q.size(1);
    std::vector<Tensor> parts;
    int64_t begin = 0;
    do {
      const int64_t position = where.position + begin;
      const int64_t length = std::min(T - begin, every_ - position % every_);
      parts.push_back(inner_->advance({where.layer, position},
                                      kernels::tokens_of(in, begin, begin + length), layer));
      begin += length;
      if (length > 0 && (position + length) % every_ == 0)
        clamp({where.layer, position + length}, layer.recurrent, limit);
    } while (begin < T);
    return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
  }

  std::string replay_obstacle() const override {
    return "mitigation clamp_norm acts at multiples of its interval";
  }

 private:
  /// [H,1,1] f64.
  Tensor limit_of(int64_t layer, const Tensor& state) const {
    check(layer < limits_.size(0) && state.size(1) == limits_.size(1), Error::Kind::Input,
          "mitigation clamp_norm: the limits are for {} layers of {} heads, but layer {} of this "
          "model has {}; record them with state-stats on the same model",
          limits_.size(0), limits_.size(1), layer, state.size(1));
    return limits_.select(0, layer).view({-1, 1, 1}).to(state.device());
  }

  void clamp(Where where, Tensor& state, const Tensor& limit) const {
    const Tensor norm = at::linalg_vector_norm(state, 2, {-2, -1}, true, at::kDouble);
    const Tensor factor = (limit / norm).clamp_max(1);
    // 0 / 0: an empty state within a limit of 0. A NaN that comes from the state stays one.
    const Tensor kept = at::where(norm == 0, 1.0, factor);  // [B,H,1,1]
    state = state * kept.to(state.scalar_type());
    if (observer_ != nullptr)
      observer_->on_rescale(where, kept.flatten(1));
  }

  Inner inner_;
  Tensor limits_;  // [L,H] f64, the multiplier included
  int64_t every_;
  InnerObserver* observer_;  // not owned; may be null
};

/// The last clamp_norm's interval, or 0 if there is none.
int64_t interval(const std::string& mitigation) {
  Arguments arguments(mitigation);
  return arguments.name() == "clamp_norm" ? arguments.integer("every", kEvery, 1) : 0;
}

}  // namespace

Inner make_clamp_norm(Arguments arguments, Inner inner, const Building& building) {
  const auto file = arguments.text("limits");
  check(file.has_value(), Error::Kind::Usage,
        "mitigation clamp_norm: needs limits=FILE, a file that state-stats wrote");
  const double multiplier =
      arguments.number("multiplier", 1, 0, std::numeric_limits<double>::infinity());
  const int64_t every = arguments.integer("every", kEvery, 1);
  arguments.finish();
  check(building.options.read_limits != nullptr, Error::Kind::Internal,
        "clamp_norm was asked for, and nothing reads its limits");
  const Tensor limits = building.options.read_limits(*file).to(at::kCPU, at::kDouble);
  check(limits.dim() == 2 && limits.ge(0).all().item<bool>(), Error::Kind::Input,
        "{}: the limits are not a matrix [layers, heads] of numbers >= 0", *file);
  if (std::isinf(multiplier))  // nothing is ever clamped, so the stream need not be cut
    return inner;
  return std::make_shared<ClampNorm>(std::move(inner), limits * multiplier, every,
                                     building.inner_observer);
}

}  // namespace stuffed::recurrence

namespace stuffed {

void check_cost(const std::vector<std::string>& mitigations, int64_t tokens) {
  for (const std::string& mitigation : mitigations)
    check(recurrence::interval(mitigation) != 1 || tokens <= recurrence::kMostSingleSteps,
          Error::Kind::Usage,
          "--mitigation {}: every=1 takes {} tokens one at a time, which is slow beyond {}; choose "
          "a larger every=, or give --force",
          mitigation, tokens, recurrence::kMostSingleSteps);
}

}  // namespace stuffed
