#include "bench_gate.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/ATen.h>

#include "kernels/common/closeness.h"
#include "kernels/decay_scan/decay_scan_cuda.h"
#include "kernels/decay_scan/decay_scan_views.h"

namespace stuffed::eval {

namespace {

constexpr double kCpuSteps = 2e7;          // state elements x tokens: about a second of plain loops
constexpr int64_t kGpuElements = 1 << 27;  // of y in f64: 1 GB
constexpr int64_t kStateElements = 1
                                   << 15;  // heads are looked at until their states are this large

int64_t heads_to_check(const Tensor& state, int64_t tokens, bool on_gpu) {
  const int64_t per_head = state.size(2) * state.size(3);
  int64_t heads = std::max<int64_t>(1, kStateElements / per_head);
  if (on_gpu)
    heads = std::min(heads, std::max<int64_t>(1, kGpuElements / (tokens * state.size(3) + 1)));
  else
    heads = std::max<int64_t>(1, heads / 4);
  return std::min(heads, state.size(1));
}

}  // namespace

void ScanGate::compare(const ScanInputs& in, const Tensor& before, const ScanResult& out) {
  const bool on_gpu = before.is_cuda();
  const int64_t T = in.q.size(1), H = before.size(1);
  const int64_t heads = heads_to_check(before, T, on_gpu);
  int64_t tokens = T;
  if (!on_gpu) {
    const double steps = static_cast<double>(heads * before.size(2) * before.size(3));
    tokens =
        std::clamp<int64_t>(static_cast<int64_t>(kCpuSteps / steps), std::min<int64_t>(T, 1), T);
  }
  for (const int64_t first : std::set<int64_t>{0, H - heads}) {
    const ScanInputs part =
        kernels::tokens_of(kernels::heads_of(in, first, first + heads), 0, tokens);
    const Tensor start = before.slice(1, first, first + heads);
    const at::TensorOptions f64(at::kDouble);
    const ScanResult exact =
        on_gpu ? kernels::decay_scan_cuda_f64(part, start)
               : kernels::decay_scan_cpu(kernels::converted(part, f64), start.to(f64));
    const Tensor y = out.y.slice(2, first, first + heads).slice(1, 0, tokens);
    y_error_ = std::max(y_error_, kernels::worst_output_rms(y, exact.y));
    if (tokens < T)
      continue;
    state_seen_ = true;
    state_error_ = std::max(
        state_error_,
        kernels::worst_relative_rms(out.state.slice(1, first, first + heads), exact.state, {2, 3}));
  }
  tokens_ = std::max(tokens_, tokens);
  heads_ = std::max(heads_, std::min(2 * heads, H));
}

void ScanGate::look_at(const ScanInputs& in, const Tensor& before, const ScanResult& out) {
  const bool is_bf16 = in.v.scalar_type() == at::kBFloat16;
  y_bound_ = is_bf16 ? 5e-3 : 1e-5;
  state_bound_ = is_bf16 ? 3e-3 : 1e-5;
  const int64_t B = before.size(0);
  for (const int64_t b : std::set<int64_t>{0, B - 1})
    compare(kernels::sequences_of(in, b, b + 1), before.slice(0, b, b + 1),
            {out.y.slice(0, b, b + 1), out.state.slice(0, b, b + 1)});
  ++calls_;
}

io::json ScanGate::record() const {
  return {{"against", "f64"},
          {"y_relative_rms", io::number_or_null(y_error_)},
          {"y_bound", y_bound_},
          {"state_relative_rms", state_seen_ ? io::number_or_null(state_error_) : io::json()},
          {"state_bound", state_bound_},
          {"calls", calls_},
          {"tokens", tokens_},
          {"heads", heads_}};
}

Tensor GatedRule::advance(Where where, const ScanInputs& in, LayerState& layer) const {
  const Tensor before = layer.recurrent;
  const Tensor y = inner_.advance(where, in, layer);
  if (std::ranges::find(layers_, where.layer) != layers_.end())
    gate_.look_at(in, before, {y, layer.recurrent});
  return y;
}

}  // namespace stuffed::eval
