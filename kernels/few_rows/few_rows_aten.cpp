// The product with weights that oneDNN packed, by oneDNN.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "kernels/few_rows/few_rows.h"

namespace stuffed::kernels {

bool few_rows_aten_takes(const FewRowsInputs& in) {
  return in.packed.defined();
}

Tensor few_rows_aten(const FewRowsInputs& in) {
  using Signature =
      Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
             c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  const auto bias =
      in.bias.defined() ? std::optional(in.bias.to(in.x.scalar_type())) : std::nullopt;
  return op.call(in.x.contiguous(), in.packed, bias, "none", c10::List<std::optional<at::Scalar>>(),
                 "");
}

}  // namespace stuffed::kernels
