// Bounds how strongly one token is written: |k| <= max, channel by channel.
#include <cmath>

#include <ATen/ATen.h>

#include "arguments.h"
#include "inputs.h"
#include "stuffed/core/error.h"
#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

class ClipInsert : public Recurrence {
 public:
  ClipInsert(Inner inner, double max) : inner_(std::move(inner)), max_(max) {}

  Tensor advance(Where where, const ScanInputs& given, LayerState& layer) const override {
    if (std::isinf(max_))
      return inner_->advance(where, given, layer);
    const ScanInputs in = ops::with_log_decay(given);
    ScanInputs clipped = in;
    if (in.bonus && !in.bonus_k)  // a token's view of itself is no insertion
      clipped.bonus_k = in.k;
    clipped.k = map_shared(in.k, [this](const Tensor& k) { return k.clamp(-max_, max_); });
    return inner_->advance(where, clipped, layer);
  }

  std::string replay_obstacle() const override { return inner_->replay_obstacle(); }

 private:
  Inner inner_;
  double max_;
};

}  // namespace

Inner make_clip_insert(Arguments arguments, Inner inner, const Building&) {
  check(arguments.has("max"), Error::Kind::Usage,
        "mitigation clip_insert: needs max=NUMBER, such as clip_insert:max=4");
  const double max = arguments.number("max", 0, 0, std::numeric_limits<double>::infinity());
  arguments.finish();
  return std::make_shared<ClipInsert>(std::move(inner), max);
}

}  // namespace stuffed::recurrence
