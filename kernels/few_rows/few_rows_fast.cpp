// A few rows times blocks of weights: each weight is read once, in one stream per thread.
#include <algorithm>
#include <array>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/cpu_rows.h"
#include "kernels/common/levels.h"
#include "kernels/common/rows.h"
#include "kernels/few_rows/few_rows.h"

namespace stuffed::kernels {

namespace {

// Sums of this many products are added to the total: shorter sums round less.
constexpr int64_t kRun = 256;
// Ahead of what is read. The processor fetches ahead within a page of 4 KB only; beyond, two
// threads read 65 instead of 50 GB/s, and one stream each faster than several.
constexpr int64_t kAheadBytes = 8192;

STUFFED_INLINE void fetch_ahead(const void* from) {
  for (int64_t line = 0; line < 4; ++line)
    __builtin_prefetch(static_cast<const char*>(from) + kAheadBytes + line * 64);
}

/// sum += x[r,i] * the block's row of 64 outputs for input i, in f32
template <int Lanes, int Rows>
STUFFED_INLINE void add_products(const float* block,
                                 const float* x,
                                 int64_t stride,
                                 int64_t i,
                                 Vec<float, Lanes> (&sum)[Rows][kBlockOutputs / Lanes]) {
  const float* const row = block + i * kBlockOutputs;
  fetch_ahead(row);
#pragma GCC unroll 16
  for (int part = 0; part < kBlockOutputs / Lanes; ++part) {
    const auto weights = *reinterpret_cast<const Vec<float, Lanes>*>(row + part * Lanes);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
      sum[r][part] += x[r * stride + i] * weights;
  }
}

/// The same for inputs i and i + 1, which lie side by side: bf16 is the upper half of f32.
template <int Lanes, int Rows>
STUFFED_INLINE void add_products(const c10::BFloat16* block,
                                 const float* x,
                                 int64_t stride,
                                 int64_t i,
                                 Vec<float, Lanes> (&sum)[Rows][kBlockOutputs / Lanes]) {
  const c10::BFloat16* const row = block + i * kBlockOutputs;
  fetch_ahead(row);
#pragma GCC unroll 16
  for (int part = 0; part < kBlockOutputs / Lanes; ++part) {
    const auto pairs = *reinterpret_cast<const Vec<uint32_t, Lanes>*>(row + part * 2 * Lanes);
    const auto first = reinterpret_cast<Vec<float, Lanes>>(pairs << 16);
    const auto second = reinterpret_cast<Vec<float, Lanes>>(pairs & 0xffff0000U);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      sum[r][part] += x[r * stride + i] * first;
      sum[r][part] += x[r * stride + i + 1] * second;
    }
  }
}

template <int Lanes, int Rows, class T>
STUFFED_INLINE void multiply_rows(const T* block, int64_t in, const float* x, float* sums) {
  constexpr int kParts = kBlockOutputs / Lanes;
  constexpr int64_t kStep = sizeof(T) == 2 ? 2 : 1;
  std::fill_n(sums, Rows * kBlockOutputs, 0.0F);
  for (int64_t begin = 0; begin < in; begin += kRun) {
    const int64_t end = begin + kRun < in ? begin + kRun : in;
    Vec<float, Lanes> sum[Rows][kParts] = {};
    for (int64_t i = begin; i < end; i += kStep)
      add_products<Lanes, Rows>(block, x, in, i, sum);
    for (int r = 0; r < Rows; ++r)
      for (int part = 0; part < kParts; ++part) {
        float* const to = sums + r * kBlockOutputs + part * Lanes;
        Vec<float, Lanes> total;  // copied: clang takes a Vec in memory for aligned
        __builtin_memcpy(&total, to, sizeof total);
        total += sum[r][part];
        __builtin_memcpy(to, &total, sizeof total);
      }
  }
}

/// As many rows at a time as have their sums in registers; the block stays in the cache between.
template <int Lanes, class T>
STUFFED_INLINE void multiply(
    const T* block, int64_t in, const float* x, int64_t rows, float* sums) {
  int64_t r = 0;
  if constexpr (Lanes == 16) {
    for (; r + 4 <= rows; r += 4)
      multiply_rows<Lanes, 4>(block, in, x + r * in, sums + r * kBlockOutputs);
    for (; r + 2 <= rows; r += 2)
      multiply_rows<Lanes, 2>(block, in, x + r * in, sums + r * kBlockOutputs);
  }
  for (; r < rows; ++r)
    multiply_rows<Lanes, 1>(block, in, x + r * in, sums + r * kBlockOutputs);
}

template <class T>
using Multiply = Levels<multiply<16, T>, multiply<8, T>, multiply<4, T>>;

/// The same bits, so that NaN is equal to itself and 0 not to -0.
template <class Bits>
bool holds(const BlockedWeights& weights, int64_t index, const Bits* plain) {
  constexpr int64_t kPair = sizeof(Bits) == 2 ? 2 : 1;
  constexpr int64_t kRunInputs = 16;  // a cache line or half of one of each row of `plain`
  const Bits* const block =
      static_cast<const Bits*>(weights.data) + index * weights.block_elements();
  const int64_t first = index * kBlockOutputs;
  const int64_t outputs = std::min(kBlockOutputs, weights.out - first);
  Bits difference = 0;
  for (int64_t begin = 0; begin < weights.padded_in; begin += kRunInputs) {
    const int64_t end = std::min(begin + kRunInputs, weights.padded_in);
    for (int64_t n = 0; n < outputs; ++n)
      for (int64_t i = begin; i < end; ++i) {
        const Bits expected = i < weights.in ? plain[(first + n) * weights.in + i] : Bits{0};
        difference |= block[(i / kPair * kBlockOutputs + n) * kPair + i % kPair] ^ expected;
      }
  }
  return difference == 0;
}

// Work worth a second thread: reading so much takes about 5 us.
constexpr int64_t kGrainBytes = 131072;

/// x [rows,in] -> y [rows,out], both dense and of the weights' type; bias [out] f32 or undefined.
template <class T>
void multiply_few_rows(
    const T* x, int64_t rows, const BlockedWeights& weights, const Tensor& bias, T* y) {
  const FewRowsOps& ops = few_rows_ops().front();
  std::vector<float> wide(static_cast<size_t>(rows * weights.padded_in));
  for (int64_t r = 0; r < rows; ++r)
    load_row(x + r * weights.in, wide.data() + r * weights.padded_in, weights.in);
  const int64_t size = weights.block_elements();
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / size / int64_t{sizeof(T)});
  at::parallel_for(0, weights.blocks(), grain, [&](int64_t begin, int64_t end) {
    std::array<float, kFewRows * kBlockOutputs> sums;
    for (int64_t i = begin; i < end; ++i) {
      const T* const block = static_cast<const T*>(weights.data) + i * size;
      if constexpr (sizeof(T) == 2)
        ops.bf16(block, weights.padded_in, wide.data(), rows, sums.data());
      else
        ops.f32(block, weights.padded_in, wide.data(), rows, sums.data());
      const int64_t first = i * kBlockOutputs;
      const int64_t width = std::min(kBlockOutputs, weights.out - first);
      for (int64_t r = 0; r < rows; ++r) {
        float* const row = sums.data() + r * kBlockOutputs;
        for (int64_t n = 0; bias.defined() && n < width; ++n)
          row[n] += bias.const_data_ptr<float>()[first + n];
        store_row(row, y + r * weights.out + first, width);
      }
    }
  });
}

}  // namespace

bool few_rows_fast_takes(const FewRowsInputs& in) {
  return in.blocks.data != nullptr && in.x.is_cpu() && in.x.numel() <= kFewRows * in.blocks.in &&
         in.x.scalar_type() == (in.blocks.is_bf16 ? at::kBFloat16 : at::kFloat);
}

Tensor few_rows_fast(const FewRowsInputs& in) {
  std::vector<int64_t> shape = in.x.sizes().vec();
  shape.back() = in.blocks.out;
  const Tensor y = at::empty(shape, in.x.options()), x = in.x.contiguous();
  const Tensor bias = in.bias.defined() ? in.bias.to(at::kFloat).contiguous() : Tensor();
  with_type(x, [&]<class T>(T*) {
    multiply_few_rows(x.const_data_ptr<T>(), x.numel() / in.blocks.in, in.blocks, bias,
                      y.mutable_data_ptr<T>());
  });
  return y;
}

std::span<const FewRowsOps> few_rows_ops() {
  static const std::vector<FewRowsOps> all = [] {
    std::vector<FewRowsOps> usable;
    for (size_t i = 0; i < Multiply<float>::usable().size(); ++i)
      usable.push_back({Multiply<float>::usable()[i], Multiply<c10::BFloat16>::usable()[i]});
    return usable;
  }();
  return all;
}

bool block_holds(const BlockedWeights& weights, int64_t index, const void* plain) {
  return weights.is_bf16 ? holds(weights, index, static_cast<const uint16_t*>(plain))
                         : holds(weights, index, static_cast<const uint32_t*>(plain));
}

}  // namespace stuffed::kernels
