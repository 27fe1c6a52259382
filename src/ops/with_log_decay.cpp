// What a raw gate stands for.
#include <ATen/ATen.h>

#include "stuffed/ops/activations.h"
#include "stuffed/ops/decay_scan.h"

namespace stuffed::ops {

ScanInputs with_log_decay(const ScanInputs& in) {
  if (!in.gate)
    return in;
  ScanInputs out = in;
  out.gate.reset();
  const RawGate& gate = *in.gate;
  const Tensor rows = gate.raw.flatten(-2), base = gate.base ? gate.base->flatten() : Tensor();
  const auto to_heads = [&](const Tensor& x) { return x.unflatten(-1, gate.raw.sizes().slice(2)); };
  if (gate.kind == GateKind::Forget) {
    const ForgetGate made = forget_gate(rows, base);
    out.k = to_heads(made.insert);
    out.log_decay = to_heads(made.log_forget);
  } else {
    out.log_decay = to_heads(negative_exp(rows, base));
  }
  return out;
}

}  // namespace stuffed::ops
