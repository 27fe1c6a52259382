#include "verify_huge.h"

#include <ATen/ATen.h>

#include "kernels/common/closeness.h"
#include "kernels/decay_scan/decay_scan_cuda.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/memory.h"

namespace stuffed::eval {

namespace {

/// Keys and values of positive mean, so that a lost or doubled bit adds up over the stream.
ScanInputs drifting(at::Device device, int64_t T, int64_t H, int64_t K, int64_t V, bool scalar) {
  const auto bf16 = at::TensorOptions(device).dtype(at::kBFloat16);
  ScanInputs in;
  in.q = at::randn({1, T, H, K}, bf16);
  in.k = at::rand({1, T, H, K}, bf16);
  in.v = at::rand({1, T, H, V}, bf16);
  in.log_decay =
      at::full({1, T, H, scalar ? 1 : K}, scalar ? -0.02 : -0.01, bf16.dtype(at::kFloat));
  return in;
}

Tensor random_state(at::Device device, int64_t H, int64_t K, int64_t V) {
  return at::randn({1, H, K, V}, at::TensorOptions(device).dtype(at::kFloat));
}

class HugeCheck {
 public:
  HugeCheck(at::Device device, bool broken, const OnVerdict& on_verdict)
      : device_(device), broken_(broken), on_verdict_(on_verdict) {}

  void million_tokens(bool scalar) {
    constexpr int64_t T = 1'048'577, H = 2;
    const int64_t K = scalar ? 128 : 64;
    Verdict verdict = begin(scalar, "a million tokens", T, "f64 kernel");
    judge(verdict, [&] {
      at::manual_seed(1);
      const ScanInputs in = drifting(device_, T, H, K, 64, scalar);
      const Tensor state = random_state(device_, H, K, 64);
      const ScanResult actual = scan(in, state);
      return std::pair(actual, kernels::decay_scan_cuda_f64(in, state));
    });
  }

  /// The last row starts past `elements`: an offset kept in 32 bits would wrap.
  void wide_rows(bool scalar, double elements) {
    constexpr int64_t T = 70'000;
    const int64_t width = static_cast<int64_t>(elements / T) / 8 * 8, K = scalar ? 128 : 64;
    Verdict verdict =
        begin(scalar, fmt::format("rows over {:.1f}e9 elements", elements / 1e9), T, "packed rows");
    judge(verdict, [&] {
      at::manual_seed(2);
      const ScanInputs packed = drifting(device_, T, 1, K, 64, scalar);
      const auto parent = [&](const Tensor& like) {
        return at::empty({1, T, width}, like.options());
      };
      const Tensor wide = parent(packed.q), wide_decay = parent(packed.log_decay);
      const auto view = [&](const Tensor& from, int64_t before_end, int64_t channels) {
        return from.narrow(2, width - before_end, channels).unflatten(2, {1, channels});
      };
      ScanInputs in = packed;
      in.q = view(wide, 128, K).copy_(packed.q);
      in.k = view(wide, 256, K).copy_(packed.k);
      in.v = view(wide, 384, 64).copy_(packed.v);
      in.log_decay = view(wide_decay, 128, packed.log_decay.size(3)).copy_(packed.log_decay);
      const Tensor state = random_state(device_, 1, K, 64);
      return std::pair(scan(in, state), kernels::decay_scan_cuda(packed, state));
    });
  }

  std::vector<Verdict> verdicts;

 private:
  ScanResult scan(const ScanInputs& in, const Tensor& state) const {
    ScanResult out = kernels::decay_scan_cuda(in, state);
    if (broken_) {
      out.state = out.state * 1.01;
      out.y = out.y * 1.01;
    }
    return out;
  }

  Verdict begin(bool scalar, const std::string& group, int64_t tokens, const char* against) const {
    Verdict verdict;
    verdict.subject = fmt::format("{} decay, {}", scalar ? "scalar" : "vector", group);
    verdict.device = "cuda";
    verdict.dtype = "bf16";
    verdict.impl = "cuda";
    verdict.path = "whole";
    verdict.against = against;
    verdict.tokens = tokens;
    verdict.output_bound = 5e-3;
    verdict.state_bound = 3e-3;
    on_verdict_(verdict, false);
    return verdict;
  }

  template <class Pair>
  void judge(Verdict& verdict, const Pair& actual_and_expected) {
    stop_if_interrupted();
    try {
      const auto [actual, expected] = actual_and_expected();
      verdict.output_error = kernels::worst_output_rms(actual.y, expected.y);
      verdict.state_error = kernels::worst_relative_rms(actual.state, expected.state, {2, 3});
    } catch (const std::exception& error) {
      if (!is_out_of_memory(error))
        throw;
      verdict.not_run = "not enough memory";
    }
    verdicts.push_back(verdict);
    on_verdict_(verdict, true);
  }

  at::Device device_;
  bool broken_;
  const OnVerdict& on_verdict_;
};

}  // namespace

std::vector<Verdict> verify_huge(at::Device device, bool broken, const OnVerdict& on_verdict) {
  HugeCheck check(device, broken, on_verdict);
  for (const bool scalar : {true, false}) {
    check.million_tokens(scalar);
    for (const double elements : {2.2e9, 4.4e9})
      check.wide_rows(scalar, elements);
  }
  return check.verdicts;
}

}  // namespace stuffed::eval
