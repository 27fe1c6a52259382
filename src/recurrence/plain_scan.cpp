// The update itself: one call of the scan per segment.
#include <ATen/ATen.h>

#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

class PlainScan : public Recurrence {
 public:
  PlainScan(Impl impl, at::ScalarType state_dtype) : impl_(impl), state_dtype_(state_dtype) {}

  Tensor advance(Where, const ScanInputs& in, LayerState& layer) const override {
    if (layer.is_private) {
      const Tensor y = ops::decay_scan_in_place(in, layer.recurrent, impl_);
      if (state_dtype_ != at::kFloat)
        layer.recurrent.copy_(layer.recurrent.to(state_dtype_));
      return y;
    }
    ScanResult out = ops::decay_scan(in, layer.recurrent, impl_);
    if (state_dtype_ != at::kFloat)  // rounded, but kept in f32 for everyone who reads it
      out.state = out.state.to(state_dtype_).to(out.state.scalar_type());
    layer.recurrent = out.state;
    return out.y;
  }

  std::string replay_obstacle() const override { return ""; }

 private:
  Impl impl_;
  at::ScalarType state_dtype_;
};

}  // namespace

Inner make_plain_scan(Impl impl, at::ScalarType state_dtype) {
  return std::make_shared<PlainScan>(impl, state_dtype);
}

}  // namespace stuffed::recurrence

namespace stuffed {

const Recurrence& plain_scan() {
  static const recurrence::PlainScan scan(Impl::Auto, at::kFloat);
  return scan;
}

}  // namespace stuffed
