#include "stuffed/ops/linear.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "cpu_rows.h"
#include "kernels/common/levels.h"
#include "kernels/common/matrix_product.h"
#include "kernels/common/rows.h"

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

// From so many rows on oneDNN's own kernels are as fast in bf16; in f32 they are not yet.
constexpr int64_t kFewRows = 8;
// Work worth a second thread: reading so much takes about 5 us.
constexpr int64_t kGrainBytes = 131072;

/// x [rows,in] -> y [rows,out], both dense and of the weights' type; bias [out] f32 or undefined.
template <class T>
void multiply_few_rows(
    const T* x, int64_t rows, const kernels::BlockedWeights& weights, const Tensor& bias, T* y) {
  const kernels::FewRowsOps& ops = kernels::few_rows_ops().front();
  std::vector<float> wide(static_cast<size_t>(rows * weights.padded_in));
  for (int64_t r = 0; r < rows; ++r)
    kernels::load_row(x + r * weights.in, wide.data() + r * weights.padded_in, weights.in);
  const int64_t size = weights.block_elements();
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / size / int64_t{sizeof(T)});
  at::parallel_for(0, weights.blocks(), grain, [&](int64_t begin, int64_t end) {
    std::array<float, kFewRows * kernels::kBlockOutputs> sums;
    for (int64_t i = begin; i < end; ++i) {
      const T* const block = static_cast<const T*>(weights.data) + i * size;
      if constexpr (sizeof(T) == 2)
        ops.bf16(block, weights.padded_in, wide.data(), rows, sums.data());
      else
        ops.f32(block, weights.padded_in, wide.data(), rows, sums.data());
      const int64_t first = i * kernels::kBlockOutputs;
      const int64_t width = std::min(kernels::kBlockOutputs, weights.out - first);
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = sums.data() + r * kernels::kBlockOutputs;
        for (int64_t n = 0; bias.defined() && n < width; ++n)
          row[n] += bias.const_data_ptr<float>()[first + n];
        kernels::store_row(row, y + r * weights.out + first, width);
      }
    }
  });
}

Tensor multiply_blocks(const Tensor& x, int64_t rows, const Linear& layer) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = layer.blocks.out;
  Tensor y = at::empty(shape, x.options());
  const Tensor dense = x.contiguous();
  const Tensor bias = layer.bias.defined() ? layer.bias.to(at::kFloat).contiguous() : Tensor();
  with_type(x, [&]<class T>(T*) {
    multiply_few_rows(dense.const_data_ptr<T>(), rows, layer.blocks, bias, y.mutable_data_ptr<T>());
  });
  return y;
}

/// With AVX-512 alone. Elsewhere oneDNN throws at bf16, and in f32 the bits of a row depend on
/// where in the batch it stands and on the number of threads.
bool packs(at::ScalarType type) {
  static const bool has_avx512 = kernels::levels_lacking() == 0;
  return has_avx512 && (type == at::kFloat || type == at::kBFloat16);
}

}  // namespace

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

Tensor linear(const Tensor& x, const Linear& layer) {
  const auto type = x.scalar_type();
  if (layer.packed.defined() && layer.packed.scalar_type() == type && x.numel() > 0) {
    const int64_t rows = x.numel() / x.size(-1);
    if (layer.blocks.data && rows <= kFewRows)
      return multiply_blocks(x, rows, layer);
    return multiply_packed(
        x.contiguous(), layer.packed,
        layer.bias.defined() ? std::optional(layer.bias.to(type)) : std::nullopt);
  }
  const Tensor weight = layer.weight.to(type);
  if (!layer.bias.defined())
    return kernels::matrix_product(x, weight.t());
  if (x.is_cpu() && type == at::kFloat)
    return kernels::matrix_product(x, weight.t()) + layer.bias;
  return at::linear(x, weight, layer.bias.to(type));
}

}  // namespace stuffed::ops
