// Is this result of the recurrence right? Asked before it is timed.
#pragma once
#include "stuffed/io/json.h"
#include "stuffed/recurrence/recurrence.h"

namespace stuffed::eval {

/// Some heads of a call against f64: on a GPU all tokens of the first and last heads of the first
/// and last sequence, on the CPU as many tokens from the start as the plain loops manage in about a
/// second. The worst of several calls.
class ScanGate {
 public:
  /// `in`, `before` and `out` are one call; f32 results must lie within 1e-5 of f64, bf16 within
  /// 5e-3 (y) and 3e-3 (state), relative RMS per head.
  void look_at(const ScanInputs& in, const Tensor& before, const ScanResult& out);
  bool is_right() const {
    return calls_ > 0 && y_error_ <= y_bound_ && state_error_ <= state_bound_;
  }
  io::json record() const;

 private:
  void compare(const ScanInputs& in, const Tensor& before, const ScanResult& out);

  double y_error_ = 0, state_error_ = 0, y_bound_ = 0, state_bound_ = 0;
  int64_t calls_ = 0, tokens_ = 0, heads_ = 0;
  bool state_seen_ = false;
};

/// A rule that shows the calls of some layers to a gate.
class GatedRule : public Recurrence {
 public:
  GatedRule(const Recurrence& inner, std::vector<int> layers, ScanGate& gate)
      : inner_(inner), layers_(std::move(layers)), gate_(gate) {}
  Tensor advance(Where where, const ScanInputs& in, LayerState& layer) const override;

 private:
  const Recurrence& inner_;
  std::vector<int> layers_;
  ScanGate& gate_;
};

}  // namespace stuffed::eval
