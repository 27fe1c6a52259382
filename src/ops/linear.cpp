#include "stuffed/ops/linear.h"

#include <atomic>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "dispatch.h"
#include "kernels/common/levels.h"
#include "kernels/common/matrix_product.h"
#include "kernels/few_rows/few_rows_cases.h"

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

bool dispatcher_has(const char* name) {
  return c10::Dispatcher::singleton().findSchema({name, ""}).has_value();
}

int64_t ask(const char* name, const Tensor& packed) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<int64_t(const Tensor&)>()
      .call(packed);
}

/// Where `packed` holds `weight` in blocks, as it does on processors with AVX-512. Nobody promises
/// that layout, so every weight is compared; if one is elsewhere, there are no blocks.
kernels::BlockedWeights find_blocks(const Tensor& weight, const Tensor& packed) {
  constexpr const char *kAddress = "mkldnn::data_ptr", *kBytes = "mkldnn::_nbytes";
  if (!dispatcher_has(kAddress) || !dispatcher_has(kBytes) || weight.numel() == 0)
    return {};
  kernels::BlockedWeights found{.data = reinterpret_cast<const void*>(ask(kAddress, packed)),
                                .is_bf16 = weight.scalar_type() == at::kBFloat16,
                                .out = weight.size(0),
                                .in = weight.size(1),
                                .padded_in = 0};
  const int64_t elements = ask(kBytes, packed) / weight.element_size();
  found.padded_in = elements / (found.blocks() * kernels::kBlockOutputs);
  if (found.padded_in < found.in || found.padded_in % 2 != 0 ||
      found.blocks() * found.block_elements() != elements)
    return {};
  const Tensor plain = weight.contiguous();
  std::atomic<bool> same = true;
  at::parallel_for(0, found.blocks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && same; ++i)
      if (!kernels::block_holds(found, i, plain.const_data_ptr()))
        same = false;
  });
  return same ? found : kernels::BlockedWeights{};
}

/// With AVX-512 alone. Elsewhere oneDNN throws at bf16, and in f32 the bits of a row depend on
/// where in the batch it stands and on the number of threads.
bool packs(at::ScalarType type) {
  static const bool has_avx512 = kernels::levels_lacking() == 0;
  return has_avx512 && (type == at::kFloat || type == at::kBFloat16);
}

using kernels::FewRowsInputs;

constexpr Programs<FewRowsInputs, Tensor, 3> kProducts = {{
    {Impl::Fast, kernels::few_rows_fast_takes, kernels::few_rows_fast},
    {Impl::Aten, kernels::few_rows_aten_takes, kernels::few_rows_aten},
    {Impl::Reference, kernels::few_rows_cpu_takes, kernels::few_rows_cpu},
}};

std::vector<OpCase> cases_of_few_rows() {
  std::vector<OpCase> cases;
  add_cases(kProducts, kernels::few_rows_cases(), cases);
  return cases;
}

}  // namespace

extern const Op few_rows_op;
const Op few_rows_op = {.name = "few_rows",
                        .what = "decoding's products, of at most eight rows with packed weights",
                        .forms = forms_of(kProducts),
                        .cases = cases_of_few_rows};

int64_t Linear::in_features() const {
  return weight.defined() ? weight.size(1) : in;
}
int64_t Linear::out_features() const {
  return weight.defined() ? weight.size(0) : out;
}

void Linear::pack(bool drop) {
  if (!weight.is_cpu() || !packs(weight.scalar_type()) ||
      !dispatcher_has("mkldnn::_reorder_linear_weight"))
    return;
  in = weight.size(1);
  out = weight.size(0);
  packed = reorder(weight.detach());
  blocks = find_blocks(weight.detach(), packed);
  if (drop)
    weight = Tensor();
}

namespace {

FewRowsInputs packed_inputs(const Tensor& x, const Linear& layer, bool is_packed) {
  FewRowsInputs in{.x = x, .bias = layer.bias};
  if (is_packed)
    in.blocks = layer.blocks, in.packed = layer.packed;
  return in;
}

}  // namespace

Tensor linear(const Tensor& x, const Linear& layer) {
  const auto type = x.scalar_type();
  const bool is_packed = layer.packed.defined() && layer.packed.scalar_type() == type;
  const bool is_few = x.numel() <= kernels::kFewRows * x.size(-1);
  if (x.numel() > 0 && is_few && (is_packed || few_rows_op.forced != Impl::Auto))
    return dispatch(few_rows_op, kProducts, packed_inputs(x, layer, is_packed));
  if (x.numel() > 0 && is_packed)
    return kernels::few_rows_aten(packed_inputs(x, layer, is_packed));
  const Tensor weight = layer.weight.to(type);
  if (!layer.bias.defined())
    return kernels::matrix_product(x, weight.t());
  if (x.is_cpu() && type == at::kFloat)
    return kernels::matrix_product(x, weight.t()) + layer.bias;
  return at::linear(x, weight, layer.bias.to(type));
}

}  // namespace stuffed::ops
