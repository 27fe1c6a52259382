// The recurrence alone, every family's shape under adversarial decays and lengths, against f64.
#include <algorithm>
#include <span>

#include <ATen/ATen.h>

#include "kernels/common/closeness.h"
#include "kernels/decay_scan/decay_scan_cases.h"
#include "kernels/decay_scan/decay_scan_cuda.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/check/verify.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/models/family.h"
#include "stuffed/ops/decay_scan.h"
#include "verify_huge.h"
#include "verify_ops.h"

namespace stuffed::eval {

namespace {

using scan_cases::Case;
using scan_cases::Decay;
using scan_cases::Problem;

constexpr int64_t kCpuLengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000};
constexpr int64_t kGpuLengths[] = {1,  2,   8,   9,   15,   16,   17,   63,   64,
                                   65, 127, 128, 129, 1000, 8191, 8192, 8193, 65537};

/// y per head, final state per head.
void set_bounds(Verdict& verdict, at::ScalarType dtype) {
  verdict.output_bound = output_bound(dtype);
  verdict.state_bound = dtype == at::kFloat ? 1e-5 : 3e-3;
}

class KernelCheck {
 public:
  KernelCheck(at::Device device, Impl impl, const std::string& broken, const OnVerdict& on_verdict)
      : device_(device), impl_(impl), is_broken_(is_named(broken, impl)), on_verdict_(on_verdict) {}

  void run(const Family& family) {
    if (!takes(family.terms))
      return;
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
      run(family, dtype);
    raw_ = impl_ == Impl::Cuda && family.terms.gate != GateKind::None;
    if (raw_)
      run(family, at::kBFloat16);
    raw_ = false;
  }

  std::vector<Verdict> verdicts;

 private:
  void run(const Family& family, at::ScalarType dtype) {
    decays(family, dtype);
    lengths(family, dtype);
    splits(family, dtype);
  }

  bool on_gpu() const { return device_.is_cuda(); }

  /// Tiled is for one decay per head; all others run all.
  bool takes(const ScanTerms& terms) const {
    return impl_ != Impl::Tiled ||
           (terms.decay == DecayForm::PerHead && !terms.has_bonus && !terms.has_erase);
  }

  ScanResult scan(const ScanInputs& in, const Tensor& state, int segments = 0) const {
    const bool keeps_gate = !in.gate || kernels::decay_scan_cuda_takes(in);
    ScanResult out =
        impl_ == Impl::Cuda && segments > 0
            ? kernels::decay_scan_cuda(keeps_gate ? in : ops::with_log_decay(in), state, segments)
            : ops::decay_scan(in, state, impl_);
    if (is_broken_) {
      out.state = out.state * 1.01;
      out.y = out.y * 1.01;
    }
    return out;
  }

  /// The definition, in f64.
  ScanResult exact(const Problem& p) const {
    if (on_gpu())
      return kernels::decay_scan_cuda_f64(p.in, p.state);
    const at::TensorOptions f64(at::kDouble);
    return kernels::decay_scan_cpu(kernels::converted(p.in, f64), p.state.to(f64));
  }

  Problem problem_of(const Case& c) const {
    const Problem p = scan_cases::make_problem(c);
    return on_gpu() ? Problem{kernels::converted(p.in, device_), p.state.to(device_)} : p;
  }

  /// A case of the widths its family publishes, a few heads of it.
  Case published(const Family& family, int64_t T, at::ScalarType dtype, Decay decay) const {
    const bool heads_are_channels = family.widths.value_width == 1;
    Case c{.variant = {.name = family.name, .terms = family.terms, .raw = raw_},
           .decay = decay,
           .B = 1,
           .T = T,
           .H = heads_are_channels ? 130 : 2,
           .K = family.widths.key_width,
           .V = family.widths.value_width,
           .type = dtype};
    if (on_gpu())
      c.B = 2, c.H += 1;
    return c;
  }

  Verdict begin(const Family& family,
                const char* group,
                at::ScalarType dtype,
                const char* path) const {
    Verdict verdict;
    verdict.subject = fmt::format("{} {}{}", family.name, raw_ ? "raw " : "", group);
    verdict.device = on_gpu() ? "cuda" : "cpu";
    verdict.dtype = dtype_name(dtype);
    verdict.impl = impl_name(impl_);
    verdict.path = path;
    verdict.against = on_gpu() ? "f64 kernel" : "f64 loops";
    verdict.cases = 0;
    set_bounds(verdict, dtype);
    on_verdict_(verdict, false);
    return verdict;
  }

  void finish(const Verdict& verdict) {
    verdicts.push_back(verdict);
    on_verdict_(verdict, true);
  }

  void judge(Verdict& verdict,
             const ScanResult& actual,
             const ScanResult& expected,
             const Case& c,
             const std::string& how = "") const {
    stop_if_interrupted();
    const double y = kernels::worst_output_rms(actual.y, expected.y);
    const double state = kernels::worst_relative_rms(actual.state, expected.state, {2, 3});
    const auto share = [&](double output_error, double state_error) {
      return std::max(output_error / verdict.output_bound, state_error / verdict.state_bound);
    };
    if (verdict.cases == 0 || share(y, state) > share(verdict.output_error, verdict.state_error))
      verdict.worst = c.name() + how;
    verdict.output_error = std::max(verdict.output_error, y);
    verdict.state_error = std::max(verdict.state_error, state);
    verdict.tokens = std::max(verdict.tokens, c.T);
    ++verdict.cases;
  }

  void decays(const Family& family, at::ScalarType dtype) {
    Verdict verdict = begin(family, "decays", dtype, "whole");
    for (const Decay decay : scan_cases::kDecays) {
      const Case c = published(family, on_gpu() ? 450 : 130, dtype, decay);
      const Problem p = problem_of(c);
      const ScanResult expected = exact(p);
      judge(verdict, scan(p.in, p.state, 1), expected, c);
      if (impl_ == Impl::Cuda)  // T cut into pieces that run side by side
        judge(verdict, scan(p.in, p.state, 4), expected, c, " in 4 segments");
    }
    finish(verdict);
  }

  void lengths(const Family& family, at::ScalarType dtype) {
    Verdict verdict = begin(family, "lengths", dtype, "whole");
    const std::span<const int64_t> all =
        on_gpu() ? std::span<const int64_t>(kGpuLengths) : std::span<const int64_t>(kCpuLengths);
    for (const int64_t T : all) {
      Case c = published(family, T, dtype, Decay::Resets);
      if (T > 60'000)
        c.B = c.H = 1;
      const Problem p = problem_of(c);
      judge(verdict, scan(p.in, p.state), exact(p), c);
    }
    finish(verdict);
  }

  /// Cut in two, in pieces of 37, and token by token: the state is carried from call to call.
  void splits(const Family& family, at::ScalarType dtype) {
    const Case c = published(family, on_gpu() ? 1000 : 193, dtype, Decay::Weak);
    const Problem p = problem_of(c);
    const ScanResult expected = exact(p);
    Verdict verdict = begin(family, "pieces", dtype, "cut, and one by one");
    for (const int64_t cut : {1, 15, 63, 64, 65, 128, 192})
      judge(verdict, in_pieces(p, {cut, c.T}), expected, c, fmt::format(" cut at {}", cut));
    for (const int64_t length : {37, 1}) {
      std::vector<int64_t> ends;
      for (int64_t end = length; end < c.T + length; end += length)
        ends.push_back(std::min(end, c.T));
      judge(verdict, in_pieces(p, ends), expected, c, fmt::format(" {} at a time", length));
    }
    finish(verdict);
  }

  ScanResult in_pieces(const Problem& p, const std::vector<int64_t>& ends) const {
    std::vector<Tensor> y;
    Tensor state = p.state;
    int64_t begin = 0;
    for (const int64_t end : ends) {
      const ScanResult out = scan(kernels::tokens_of(p.in, begin, end), state);
      y.push_back(out.y);
      state = out.state;
      begin = end;
    }
    return {at::cat(y, 1), state};
  }

  at::Device device_;
  Impl impl_;
  bool is_broken_;
  const OnVerdict& on_verdict_;
  bool raw_ = false;  // gates as their projections leave them
};

}  // namespace

std::vector<Verdict> verify_scan(at::Device device,
                                 const VerifyKernelsOptions& options,
                                 const OnVerdict& on_verdict) {
  const std::vector<std::string> names =
      options.family == "all" ? family_names() : std::vector{options.family};
  const std::vector<Impl> programs = device.is_cuda()
                                         ? std::vector{Impl::Aten, Impl::Cuda}
                                         : std::vector{Impl::Step, Impl::Tiled, Impl::Aten};
  std::vector<Verdict> verdicts;
  for (const Impl program : programs) {
    KernelCheck check(device, program, options.broken, on_verdict);
    for (const std::string& name : names)
      check.run(find_family(name));
    verdicts.insert(verdicts.end(), check.verdicts.begin(), check.verdicts.end());
  }
  if (device.is_cuda() && options.huge)
    for (const Verdict& verdict : verify_huge(device, options.broken == "cuda", on_verdict))
      verdicts.push_back(verdict);
  return verdicts;
}

}  // namespace stuffed::eval
