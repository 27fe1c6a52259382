#include "stuffed/ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace stuffed::ops {

namespace {

// oneDNN's weight layout depends on the number of rows it will multiply; it works for any other
// number too.
constexpr int64_t kRowsPackedFor = 512;

Tensor reorder(const Tensor& weight) {
  using Signature = Tensor(const Tensor&, std::optional<c10::SymInt>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<Signature>();
  return op.call(weight, c10::SymInt(kRowsPackedFor));
}

Tensor multiply_packed(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias) {
  using Signature =
      Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
             c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

bool dispatcher_has_packing() {
  return c10::Dispatcher::singleton()
      .findSchema({"mkldnn::_reorder_linear_weight", ""})
      .has_value();
}

}  // namespace

int64_t Linear::in_features() const {
  return weight.defined() ? weight.size(1) : in;
}
int64_t Linear::out_features() const {
  return weight.defined() ? weight.size(0) : out;
}

void Linear::pack(bool drop) {
  const auto type = weight.scalar_type();
  if (!weight.is_cpu() || (type != at::kFloat && type != at::kBFloat16) ||
      !dispatcher_has_packing())
    return;
  in = weight.size(1);
  out = weight.size(0);
  packed = reorder(weight.detach());
  if (drop)
    weight = Tensor();
}

Tensor linear(const Tensor& x, const Linear& layer) {
  const auto type = x.scalar_type();
  if (layer.packed.defined() && layer.packed.scalar_type() == type && x.numel() > 0)
    return multiply_packed(
        x.contiguous(), layer.packed,
        layer.bias.defined() ? std::optional(layer.bias.to(type)) : std::nullopt);
  const Tensor weight = layer.weight.to(type);
  return layer.bias.defined() ? at::linear(x, weight, layer.bias.to(type)) : at::linear(x, weight);
}

}  // namespace stuffed::ops
