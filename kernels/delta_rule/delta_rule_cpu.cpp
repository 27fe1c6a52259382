// What RWKV-7's gates and outputs are, in plain loops: every other form must agree with this one.
#include <cmath>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/plain.h"
#include "kernels/delta_rule/delta_rule.h"

namespace stuffed::kernels {

namespace {

/// Where the gates of one head of one token are written: channels `i` on, its strength at `head`.
struct GateNumbers {
  double *key, *value, *read, *write, *log_decay, *strength;
};

class PlainGates {
 public:
  explicit PlainGates(const DeltaGatesInputs& in)
      : query_(in.streams.query),
        key_(in.streams.key),
        value_(in.streams.value),
        decay_(in.streams.decay),
        rate_(in.streams.rate),
        value_mix_(in.streams.value_mix),
        first_value_(in.streams.first_value),
        decay_base_(in.parameters.decay_base),
        rate_base_(in.parameters.rate_base),
        value_base_(in.parameters.value_base),
        read_scale_(in.parameters.read_scale),
        rate_scale_(in.parameters.rate_scale),
        bonus_(in.parameters.bonus) {}

  /// Channels [i, i + width) of all rows, which are channels [c, c + width) of their row.
  void head(int64_t i, int64_t c, int64_t width, const GateNumbers& out) const {
    double square = 0;
    for (int64_t n = 0; n < width; ++n)
      square += std::pow(key_[i + n] * read_scale_[c + n], 2);
    const double length = std::fmax(std::sqrt(square), kShortestDirection);
    *out.strength = 0;
    for (int64_t n = 0; n < width; ++n) {
      const double rate = plain_sigmoid(rate_base_[c + n] + rate_[i + n]);
      out.read[n] = key_[i + n] * read_scale_[c + n] / length;
      out.write[n] = out.read[n] * rate;
      out.key[n] = key_[i + n] * (1 + (rate - 1) * rate_scale_[c + n]);
      out.value[n] = value_[i + n];
      if (value_base_)
        out.value[n] += (first_value_[i + n] - value_[i + n]) *
                        plain_sigmoid(value_base_[c + n] + value_mix_[i + n]);
      out.log_decay[n] = kDeltaDecayScale * plain_sigmoid(decay_base_[c + n] + decay_[i + n]);
      *out.strength += query_[i + n] * out.key[n] * bonus_[c + n];
    }
  }

 private:
  Plain query_, key_, value_, decay_, rate_, value_mix_, first_value_;
  Plain decay_base_, rate_base_, value_base_, read_scale_, rate_scale_, bonus_;
};

}  // namespace

bool delta_gates_cpu_takes(const DeltaGatesInputs& in) {
  return in.streams.key.is_cpu();
}

DeltaRuleGates delta_gates_cpu(const DeltaGatesInputs& in) {
  const Tensor& key = in.streams.key;
  const int64_t heads = in.parameters.bonus.size(0), width = in.parameters.bonus.size(1);
  const auto rows = [&] { return at::empty(key.sizes(), at::kDouble); };
  const DeltaRuleGates out{.key = rows(),
                           .value = rows(),
                           .read = rows(),
                           .write = rows(),
                           .log_decay = rows(),
                           .strength = at::empty({key.size(0), key.size(1), heads}, at::kDouble)};
  const PlainGates gates(in);
  const auto at = [](const Tensor& x, int64_t i) { return x.mutable_data_ptr<double>() + i; };
  for (int64_t part = 0; part < key.numel() / width; ++part) {
    const int64_t i = part * width, c = part % heads * width;
    gates.head(i, c, width,
               {.key = at(out.key, i),
                .value = at(out.value, i),
                .read = at(out.read, i),
                .write = at(out.write, i),
                .log_decay = at(out.log_decay, i),
                .strength = at(out.strength, part)});
  }
  const auto type = key.scalar_type(), wide = type == at::kDouble ? type : at::kFloat;
  return {.key = out.key.to(type),
          .value = out.value.to(type),
          .read = out.read.to(type),
          .write = out.write.to(type),
          .log_decay = out.log_decay.to(wide),
          .strength = out.strength.to(wide)};
}

bool delta_output_cpu_takes(const DeltaOutputInputs& in) {
  return in.y.is_cpu();
}

Tensor delta_output_cpu(const DeltaOutputInputs& in) {
  const Plain y(in.y), value(in.value), strength(in.strength), gate(in.gate), weight(in.weight),
      bias(in.bias);
  const int64_t heads = in.strength.size(-1), width = in.y.size(-1) / heads;
  const Tensor out = at::empty(in.y.sizes(), at::kDouble);
  for (int64_t part = 0; part < in.y.numel() / width; ++part) {
    const int64_t i = part * width, c = part % heads * width;
    double mean = 0, square = 0;
    for (int64_t n = 0; n < width; ++n)
      mean += y[i + n] / static_cast<double>(width);
    for (int64_t n = 0; n < width; ++n)
      square += (y[i + n] - mean) * (y[i + n] - mean) / static_cast<double>(width);
    for (int64_t n = 0; n < width; ++n) {
      const double normal = (y[i + n] - mean) / std::sqrt(square + in.eps);
      out.mutable_data_ptr<double>()[i + n] =
          (normal * weight[c + n] + bias[c + n] + strength[part] * value[i + n]) * gate[i + n];
    }
  }
  return out.to(in.y.scalar_type());
}

}  // namespace stuffed::kernels
