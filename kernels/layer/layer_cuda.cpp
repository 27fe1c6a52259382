// From tensors to the kernels' parameters. A build without CUDA takes nothing.
#include "kernels/layer/layer_cuda.h"

#include <ATen/ATen.h>

#include "kernels/common/cuda_call.h"
#include "stuffed/core/error.h"
#include "stuffed/core/gradient.h"

namespace stuffed::kernels {

namespace {

/// Whether every row starts at a whole group of channels.
bool has_aligned_rows(const Tensor& x) {
  const bool is_view = x.dim() == 3 && x.stride(-1) == 1;
  if (!is_view && !x.is_contiguous())
    return false;
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  const bool good = x.size(-1) % kLayerChannels == 0 &&
                    address % (kLayerChannels * static_cast<uintptr_t>(x.element_size())) == 0;
  return good &&
         (!is_view || (x.stride(0) % kLayerChannels == 0 && x.stride(1) % kLayerChannels == 0));
}

}  // namespace

bool layer_cuda_takes(std::initializer_list<Tensor> activations) {
  for (const Tensor& x : activations) {
    const auto type = x.scalar_type();
    if (!runs_kernels(x) || type != activations.begin()->scalar_type() ||
        (type != at::kFloat && type != at::kBFloat16) || wants_gradient(x) || x.dim() == 0 ||
        x.numel() == 0 || !has_aligned_rows(x))
      return false;
  }
  return true;
}

bool shift_mixes_cuda_takes(const Tensor& x, const Tensor& low, const Tensor& factors) {
  constexpr int64_t kEight = 8;  // 16 bytes
  const int64_t rank = low.size(-1);
  return layer_cuda_takes({x, low, factors}) && x.dim() == 3 && x.scalar_type() == at::kBFloat16 &&
         x.size(2) % kShiftMixColumns == 0 && x.stride(0) % kEight == 0 &&
         x.stride(1) % kEight == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
         (rank == 16 || rank == 32 || rank == 64) && low.is_contiguous() &&
         factors.is_contiguous() && factors.size(0) == kShiftMixes;
}

bool nll_cuda_takes(const Tensor& logits) {
  return runs_kernels(logits) && logits.dim() == 2 && logits.numel() > 0 && logits.stride(1) == 1 &&
         !wants_gradient(logits) &&
         (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16);
}

bool layer_cuda_takes_parameters(std::initializer_list<Tensor> parameters) {
  for (const Tensor& x : parameters)
    if (x.defined() &&
        (!x.is_cuda() || x.scalar_type() != at::kFloat || !x.is_contiguous() || wants_gradient(x)))
      return false;
  return true;
}

#if STUFFED_WITH_CUDA

namespace {

/// Batch, tokens and channels of an activation: [B,T,C], or dense with all but the last axis as
/// tokens.
struct Shape {
  int64_t batch, tokens, channels;
};

Shape shape_of(const Tensor& x) {
  if (x.dim() == 3)
    return {x.size(0), x.size(1), x.size(2)};
  return {1, x.numel() / std::max<int64_t>(1, x.size(-1)), x.size(-1)};
}

Rows rows_of(const Tensor& x) {
  if (!x.defined())
    return {};
  if (x.dim() == 3)
    return {x.const_data_ptr(), x.stride(0), x.stride(1)};
  return {x.const_data_ptr(), 0, x.size(-1)};
}

const float* floats(const Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

MapParams map_params(Map map, const Tensor& a, const Tensor& b, const Tensor& w) {
  const Shape shape = shape_of(a);
  MapParams p;
  p.map = map;
  p.batch = shape.batch;
  p.tokens = shape.tokens;
  p.channels = shape.channels;
  p.is_bf16 = a.scalar_type() == at::kBFloat16;
  p.a = rows_of(a);
  p.b = rows_of(b);
  p.w = floats(w);
  return p;
}

}  // namespace

std::tuple<Tensor, Tensor> short_conv_cuda(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& columns, bool silu) {
  const CudaCall call(x);
  const Tensor y = at::empty(x.sizes(), x.options()),
               next = at::empty(columns.sizes(), x.options());
  ShortConvParams p;
  p.batch = x.size(0);
  p.tokens = x.size(1);
  p.channels = x.size(2);
  p.width = static_cast<int32_t>(weight.size(1));
  p.is_bf16 = x.scalar_type() == at::kBFloat16;
  p.silu = silu;
  p.x = rows_of(x);
  p.weight = floats(weight);
  p.bias = floats(bias);
  p.columns = columns.const_data_ptr();
  p.y = y.mutable_data_ptr();
  p.next = next.mutable_data_ptr();
  call.check(stuffed_short_conv(&p, call.stream()), "short_conv");
  return {y, next};
}

Tensor norm_cuda(const NormTensors& in, at::ScalarType out) {
  const CudaCall call(in.x);
  const Shape shape = shape_of(in.x);
  const Tensor y = at::empty(in.x.sizes(), in.x.options().dtype(out));
  NormParams p;
  p.batch = shape.batch;
  p.tokens = shape.tokens;
  p.parts = static_cast<int32_t>(in.parts);
  p.width = static_cast<int32_t>(shape.channels / in.parts);
  p.is_bf16 = in.x.scalar_type() == at::kBFloat16;
  p.y_bf16 = out == at::kBFloat16;
  p.centre = in.centre;
  p.gate_first = in.gate_first;
  p.x = rows_of(in.x);
  p.gate = rows_of(in.gate);
  p.skip = rows_of(in.skip);
  p.weight = floats(in.weight);
  p.bias = floats(in.bias);
  p.skip_weight = floats(in.skip_weight);
  if (in.skip_weight.defined())
    p.skip_width = static_cast<int32_t>(shape.channels / in.skip_weight.numel());
  p.eps = static_cast<float>(in.eps);
  p.y = y.mutable_data_ptr();
  call.check(stuffed_norm(&p, call.stream()), "norm");
  return y;
}

Tensor map_cuda(Map map, const Tensor& a, const Tensor& b, const Tensor& w) {
  const CudaCall call(a);
  const bool to_f32 = map == Map::NegativeExp || map == Map::Softplus;
  const Tensor y = at::empty(a.sizes(), to_f32 ? a.options().dtype(at::kFloat) : a.options());
  MapParams p = map_params(map, a, b, w);
  p.y = y.mutable_data_ptr();
  call.check(stuffed_map(&p, call.stream()), "map");
  return y;
}

Tensor shift_mix_cuda(const Tensor& x,
                      const Tensor& before,
                      const Tensor& share,
                      const Tensor& shift) {
  const CudaCall call(x);
  const Tensor y = at::empty(x.sizes(), x.options());
  MapParams p = map_params(Map::ShiftMix, x, shift, share);
  p.before = {before.const_data_ptr(), before.stride(0), 0};
  p.y = y.mutable_data_ptr();
  call.check(stuffed_map(&p, call.stream()), "shift_mix");
  return y;
}

std::vector<Tensor> shift_mixes_cuda(const Tensor& x,
                                     const Tensor& before,
                                     std::span<const Tensor> shares,
                                     const Tensor& low,
                                     const Tensor& factors) {
  const CudaCall call(x);
  const Tensor row_before = before.contiguous();
  std::vector<Tensor> y;
  ShiftMixesParams p;
  p.batch = x.size(0);
  p.tokens = x.size(1);
  p.channels = x.size(2);
  p.rank = static_cast<int32_t>(low.size(-1));
  p.x = rows_of(x);
  p.before = {row_before.const_data_ptr(), row_before.stride(0), 0};
  p.low = low.const_data_ptr();
  p.factor = factors.const_data_ptr();
  for (size_t m = 0; m < shares.size(); ++m) {
    y.push_back(at::empty(x.sizes(), x.options()));
    p.share[m] = floats(shares[m]);
    p.y[m] = y[m].mutable_data_ptr();
  }
  call.check(stuffed_shift_mixes(&p, call.stream()), "shift_mixes");
  return y;
}

std::tuple<Tensor, Tensor> forget_gate_cuda(const Tensor& a, const Tensor& low) {
  const CudaCall call(a);
  const Tensor y = at::empty(a.sizes(), a.options()),
               log_forget = at::empty(a.sizes(), a.options().dtype(at::kFloat));
  MapParams p = map_params(Map::ForgetGate, a, {}, low);
  p.y = y.mutable_data_ptr();
  p.log_decay = log_forget.mutable_data_ptr<float>();
  call.check(stuffed_map(&p, call.stream()), "forget_gate");
  return {y, log_forget};
}

std::tuple<Tensor, Tensor> step_gates_cuda(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most) {
  const CudaCall call(raw);
  const auto options = raw.options().dtype(at::kFloat);
  const Tensor dt = at::empty(raw.sizes(), options), log_decay = at::empty(raw.sizes(), options);
  MapParams p = map_params(Map::StepGates, raw, {}, bias);
  p.w2 = floats(a_log);
  p.least = static_cast<float>(least);
  p.most = static_cast<float>(most);
  p.y = dt.mutable_data_ptr();
  p.log_decay = log_decay.mutable_data_ptr<float>();
  call.check(stuffed_map(&p, call.stream()), "step_gates");
  return {dt, log_decay};
}

namespace {

/// Of rows [B,T,heads*width].
DeltaRuleParams delta_rule_params(const Tensor& rows, int64_t heads) {
  DeltaRuleParams p;
  p.batch = rows.size(0);
  p.tokens = rows.size(1);
  p.heads = heads;
  p.width = static_cast<int32_t>(rows.size(2) / heads);
  p.is_bf16 = rows.scalar_type() == at::kBFloat16;
  return p;
}

}  // namespace

DeltaRuleGates delta_rule_gates_cuda(const DeltaRuleStreams& in,
                                     const DeltaRuleParameters& parameters) {
  const CudaCall call(in.key);
  const int64_t heads = parameters.bonus.size(0);
  const auto rows = [&] { return at::empty(in.key.sizes(), in.key.options()); };
  const auto wide = in.key.options().dtype(at::kFloat);
  const bool mixes = parameters.value_base.defined();
  DeltaRuleGates out{.key = rows(),
                     .value = mixes ? rows() : in.value,
                     .read = rows(),
                     .write = rows(),
                     .log_decay = at::empty(in.key.sizes(), wide),
                     .strength = at::empty({in.key.size(0), in.key.size(1), heads}, wide)};
  DeltaRuleParams p = delta_rule_params(in.key, heads);
  p.query = rows_of(in.query);
  p.key = rows_of(in.key);
  p.value = rows_of(in.value);
  p.decay = rows_of(in.decay);
  p.rate = rows_of(in.rate);
  p.value_mix = rows_of(in.value_mix);
  p.first_value = rows_of(in.first_value);
  p.decay_base = floats(parameters.decay_base);
  p.rate_base = floats(parameters.rate_base);
  p.value_base = floats(parameters.value_base);
  p.read_scale = floats(parameters.read_scale);
  p.rate_scale = floats(parameters.rate_scale);
  p.bonus = floats(parameters.bonus);
  p.key_out = out.key.mutable_data_ptr();
  p.value_out = mixes ? out.value.mutable_data_ptr() : nullptr;
  p.read_out = out.read.mutable_data_ptr();
  p.write_out = out.write.mutable_data_ptr();
  p.log_decay_out = out.log_decay.mutable_data_ptr<float>();
  p.strength_out = out.strength.mutable_data_ptr<float>();
  call.check(stuffed_delta_rule(&p, call.stream()), "delta_rule_gates");
  return out;
}

Tensor delta_rule_output_cuda(const Tensor& y,
                              const Tensor& value,
                              const Tensor& strength,
                              const Tensor& gate,
                              const Tensor& weight,
                              const Tensor& bias,
                              double eps) {
  const CudaCall call(y);
  const Tensor out = at::empty(y.sizes(), y.options());
  DeltaRuleParams p = delta_rule_params(y, strength.size(-1));
  p.y = rows_of(y);
  p.value = rows_of(value);
  p.gate = rows_of(gate);
  p.strength = floats(strength);
  p.weight = floats(weight);
  p.bias = floats(bias);
  p.eps = static_cast<float>(eps);
  p.y_out = out.mutable_data_ptr();
  call.check(stuffed_delta_rule(&p, call.stream()), "delta_rule_output");
  return out;
}

Tensor nll_cuda(const Tensor& logits, int64_t vocab, const Tensor& targets) {
  const CudaCall call(logits);
  const Tensor nll = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  NllParams p;
  p.rows = logits.size(0);
  p.vocab = vocab;
  p.stride = logits.stride(0);
  p.is_bf16 = logits.scalar_type() == at::kBFloat16;
  p.logits = logits.const_data_ptr();
  p.targets = targets.const_data_ptr<int64_t>();
  p.nll = nll.mutable_data_ptr<float>();
  call.check(stuffed_nll(&p, call.stream()), "nll");
  return nll;
}

#else

namespace {
[[noreturn]] void not_built() {
  fail(Error::Kind::Internal, "layer kernels were called in a build without CUDA");
}
}  // namespace

std::tuple<Tensor, Tensor> short_conv_cuda(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) {
  not_built();
}
Tensor norm_cuda(const NormTensors&, at::ScalarType) {
  not_built();
}
Tensor map_cuda(Map, const Tensor&, const Tensor&, const Tensor&) {
  not_built();
}
Tensor shift_mix_cuda(const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  not_built();
}
std::vector<Tensor> shift_mixes_cuda(
    const Tensor&, const Tensor&, std::span<const Tensor>, const Tensor&, const Tensor&) {
  not_built();
}
std::tuple<Tensor, Tensor> forget_gate_cuda(const Tensor&, const Tensor&) {
  not_built();
}
std::tuple<Tensor, Tensor> step_gates_cuda(
    const Tensor&, const Tensor&, const Tensor&, double, double) {
  not_built();
}
DeltaRuleGates delta_rule_gates_cuda(const DeltaRuleStreams&, const DeltaRuleParameters&) {
  not_built();
}
Tensor delta_rule_output_cuda(const Tensor&,
                              const Tensor&,
                              const Tensor&,
                              const Tensor&,
                              const Tensor&,
                              const Tensor&,
                              double) {
  not_built();
}
Tensor nll_cuda(const Tensor&, int64_t, const Tensor&) {
  not_built();
}

#endif

}  // namespace stuffed::kernels
