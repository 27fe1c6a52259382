// Forget more, remember less: scales the decay, what is inserted, and the step dt of the families
// that have one.
#include <cmath>

#include <ATen/ATen.h>

#include "arguments.h"
#include "inputs.h"
#include "stuffed/core/error.h"
#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

struct Scales {
  double decay = 1, insert = 1, dt = 1;
};

class ScaleGates : public Recurrence {
 public:
  ScaleGates(Inner inner, const Scales& scales) : inner_(std::move(inner)), scales_(scales) {}

  Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const override {
    check(scales_.dt == 1 || in.v_scale, Error::Kind::Usage,
          "--mitigation: dt={} scales Mamba's step, which this family does not have; use decay and "
          "insert",
          scales_.dt);
    if (scales_.decay == 1 && scales_.insert == 1 && scales_.dt == 1)
      return inner_->advance(where, in, layer);
    ScanInputs scaled = ops::with_log_decay(in);
    scale_decay(scaled);
    scale_insertion(scaled);
    return inner_->advance(where, scaled, layer);
  }

  std::string replay_obstacle() const override { return inner_->replay_obstacle(); }

 private:
  void scale_decay(ScanInputs& in) const {
    if (scales_.decay == 1 && scales_.dt == 1)
      return;
    check(!in.erase, Error::Kind::Unsupported,
          "--mitigation: decay={} needs a decay that is one number per channel, but the delta rule "
          "(RWKV-7) mixes channels; set decay=1 and use insert",
          scales_.decay);
    if (in.factored_decay) {
      FactoredDecay& decay = *in.factored_decay;
      if (scales_.dt != 1)
        decay.step = decay.step * scales_.dt;
      decay.offset = scales_.dt * decay.offset + std::log(scales_.decay);
      return;
    }
    in.log_decay = map_shared(in.log_decay, [this](const Tensor& g) {
      const Tensor stepped = scales_.dt == 1 ? g : g * scales_.dt;
      return scales_.decay == 1 ? stepped : stepped + std::log(scales_.decay);
    });
  }

  void scale_insertion(ScanInputs& in) const {
    const double factor = scales_.dt * scales_.insert;
    if (factor == 1)
      return;
    if (in.v_scale) {
      in.v_scale = *in.v_scale * factor;
      return;
    }
    if (in.bonus && !in.bonus_k)  // a token's view of itself is no insertion
      in.bonus_k = in.k;
    in.k = map_shared(in.k, [factor](const Tensor& k) { return k * factor; });
  }

  Inner inner_;
  Scales scales_;
};

Scales preset(const std::string& name) {
  if (name == "rri")  // arXiv:2410.07145, first version: chosen by the loss at 32K tokens
    return {.decay = 0.9999, .insert = 0.75};
  if (name == "longmamba")
    return {.dt = 0.2};
  fail(Error::Kind::Usage, "mitigation scale_gates: '{}' is not a preset; known are rri, longmamba",
       name);
}

Inner make(Arguments arguments, Inner inner, Scales scales) {
  constexpr double kMost = 1e6;
  scales.decay = arguments.number("decay", scales.decay, 0, 1);
  scales.insert = arguments.number("insert", scales.insert, 0, kMost);
  scales.dt = arguments.number("dt", scales.dt, 0, kMost);
  arguments.finish();
  return std::make_shared<ScaleGates>(std::move(inner), scales);
}

}  // namespace

Inner make_scale_gates(Arguments arguments, Inner inner, const Building&) {
  const auto name = arguments.text("preset");
  return make(std::move(arguments), std::move(inner), name ? preset(*name) : Scales());
}

Inner make_rri(Arguments arguments, Inner inner, const Building&) {
  return make(std::move(arguments), std::move(inner), preset("rri"));
}

Inner make_longmamba(Arguments arguments, Inner inner, const Building&) {
  return make(std::move(arguments), std::move(inner), preset("longmamba"));
}

}  // namespace stuffed::recurrence
