// The CUDA kernels where 32-bit indices and drifting sums would show: millions of tokens, billions
// of elements.
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/decay_scan/decay_scan_cuda.h"

#if STUFFED_WITH_CUDA

namespace stuffed {
namespace {

using kernels::decay_scan_cuda;
using kernels::decay_scan_cuda_f64;
using testing::close;

at::TensorOptions bf16() {
  return at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
}

at::TensorOptions f32() {
  return at::TensorOptions(at::kCUDA).dtype(at::kFloat);
}

/// T tokens of one head; keys and values of positive mean, so that a lost or doubled bit adds up.
ScanInputs drifting(int64_t T, int64_t K, int64_t V, double log_decay, bool scalar) {
  ScanInputs in;
  in.q = at::randn({1, T, 1, K}, bf16());
  in.k = at::rand({1, T, 1, K}, bf16());
  in.v = at::rand({1, T, 1, V}, bf16());
  in.log_decay = at::full({1, T, 1, scalar ? 1 : K}, log_decay, f32());
  return in;
}

/// Sum of the error over the sum of the reference: what all elements drift by together.
double drift(const Tensor& actual, const Tensor& expected) {
  return ((actual.to(at::kDouble) - expected).sum() / expected.sum()).abs().item<double>();
}

/// [1,T,...] as a batch of `parts` stretches of T / parts tokens.
ScanInputs in_parts(const ScanInputs& in, int64_t parts) {
  const auto cut = [&](const Tensor& x) { return x.squeeze(0).unflatten(0, {parts, -1}); };
  ScanInputs out;
  out.q = cut(in.q);
  out.k = cut(in.k);
  out.v = cut(in.v);
  out.log_decay = cut(in.log_decay);
  return out;
}

/// The f64 state before each of `parts` equal stretches and after the last, [parts+1,1,K,V]: what
/// each adds comes from the f64 kernel, all stretches at once, and `log_decay` is the constant
/// decay of a token.
Tensor f64_states(const ScanInputs& in, const Tensor& first, double log_decay, int64_t parts) {
  const Tensor zero = at::zeros({parts, 1, in.q.size(3), in.v.size(3)}, f32());
  const Tensor added = decay_scan_cuda_f64(in_parts(in, parts), zero).state;
  const double decay = std::exp(log_decay * static_cast<double>(in.q.size(1) / parts));
  std::vector<Tensor> states{first.to(at::kDouble)};
  for (int64_t i = 0; i < parts; ++i)
    states.push_back(states.back() * decay + added.slice(0, i, i + 1));
  return at::cat(states);
}

TEST(CudaDecayScanLong, MillionsOfTokensAgree) {
  constexpr int64_t kParts = 1024;
  for (const int64_t T : {kParts * 4200, kParts * 16640})  // 4.3M and 17M
    for (const bool scalar : {true, false}) {
      at::manual_seed(1);
      const double log_decay = -0.01;
      const int64_t K = scalar ? 32 : 16, V = scalar ? 64 : 16;
      const ScanInputs in = drifting(T, K, V, log_decay, scalar);
      const Tensor state = at::randn({1, 1, K, V}, f32());
      const Tensor expected = f64_states(in, state, log_decay, kParts);
      const ScanResult actual = decay_scan_cuda(in, state);
      EXPECT_TRUE(close(actual.state, expected.slice(0, kParts), 3e-3));
      const ScanInputs parts = in_parts(in, kParts);
      const Tensor y = actual.y.squeeze(0).unflatten(0, {kParts, -1});
      for (const int64_t i : {int64_t{0}, kParts / 2, kParts - 1}) {
        ScanInputs part = parts;
        for (Tensor* x : {&part.q, &part.k, &part.v, &part.log_decay})
          *x = x->slice(0, i, i + 1);
        const Tensor start = expected.slice(0, i, i + 1).to(at::kFloat);
        EXPECT_TRUE(close(y.slice(0, i, i + 1), decay_scan_cuda_f64(part, start).y, 5e-3))
            << "T " << T << ", part " << i;
      }
    }
}

TEST(CudaDecayScanLong, TenMillionStreamedTokensDoNotDrift) {
  constexpr int64_t kSegment = 262144, kSegments = 39;
  for (const double log_decay : {0., -1e-8, -1e-6})
    for (const bool scalar : {true, false}) {
      at::manual_seed(2);
      Tensor state = at::zeros({1, 1, 64, 64}, f32());
      Tensor expected = state.to(at::kDouble);
      for (int64_t i = 0; i < kSegments; ++i) {
        const ScanInputs in = drifting(kSegment, 64, 64, log_decay, scalar);
        expected = f64_states(in, expected, log_decay, 256).slice(0, 256);
        state = decay_scan_cuda(in, state).state;
      }
      const double off = drift(state, expected);
      RecordProperty(fmt::format("drift_{}_{}", log_decay, scalar ? "scalar" : "vector"),
                     fmt::format("{:.2e}", off));
      EXPECT_LE(off, 1e-4) << "log_decay " << log_decay << ", scalar " << scalar;
      EXPECT_TRUE(close(state, expected, 1e-3))
          << "log_decay " << log_decay << ", scalar " << scalar;
    }
}

/// Inputs whose rows lie so far apart in a wide parent that the last row starts past `elements`.
TEST(CudaDecayScanLong, OffsetsPastTwoToTheThirtyTwoAgree) {
  constexpr int64_t T = 70'000;
  for (const double elements : {2.1e9, 4.4e9})
    for (const bool scalar : {true, false}) {
      at::manual_seed(3);
      const int64_t width = static_cast<int64_t>(elements / T) / 8 * 8, K = scalar ? 128 : 64;
      const Tensor wide = at::empty({1, T, width}, bf16());
      const Tensor wide_decay = at::empty({1, T, width}, f32());
      const auto view = [&](const Tensor& parent, int64_t first, int64_t channels) {
        return parent.narrow(2, width - first, channels).unflatten(2, {1, channels});
      };
      ScanInputs in = drifting(T, K, 64, -0.02, scalar);
      const ScanInputs dense = in;
      in.q = view(wide, 128, K).copy_(in.q);
      in.k = view(wide, 256, K).copy_(in.k);
      in.v = view(wide, 384, 64).copy_(in.v);
      in.log_decay = view(wide_decay, 128, in.log_decay.size(3)).copy_(in.log_decay);
      const Tensor state = at::randn({1, 1, K, 64}, f32());
      const ScanResult expected = decay_scan_cuda(dense, state),
                       actual = decay_scan_cuda(in, state);
      EXPECT_TRUE(testing::bitwise_equal(actual.y, expected.y));
      EXPECT_TRUE(testing::bitwise_equal(actual.state, expected.state));
    }
}

}  // namespace
}  // namespace stuffed

#endif
