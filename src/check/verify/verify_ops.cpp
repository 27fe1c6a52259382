// Every form of an operation on the cases of its row, against the reference in f64.
#include "verify_ops.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "kernels/common/closeness.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::eval {

namespace {

class FormCheck {
 public:
  FormCheck(const ops::Op& op, at::Device device, const std::string& broken)
      : op_(op), device_(device), broken_(broken), cases_(op.cases()) {
    for (const ops::OpCase& c : cases_)
      exact_.push_back(c.exact());
  }

  /// Whether it takes any of the cases of this type.
  bool takes(Impl form, at::ScalarType type) const {
    return std::ranges::any_of(
        cases_, [&](const ops::OpCase& c) { return c.type == type && c.takes(form, device_); });
  }

  Verdict begin(Impl form, at::ScalarType type) const {
    Verdict verdict{.subject = std::string(op_.name),
                    .device = device_.is_cuda() ? "cuda" : "cpu",
                    .dtype = dtype_name(type),
                    .impl = std::string(impl_name(form)),
                    .path = "cases",
                    .against = "f64 loops",
                    .cases = 0,
                    .output_bound = output_bound(type),
                    .worst = {},
                    .not_run = {}};
    return verdict;
  }

  void run(Impl form, at::ScalarType type, Verdict& verdict) const {
    for (size_t i = 0; i < cases_.size(); ++i)
      if (cases_[i].type == type && cases_[i].takes(form, device_))
        judge(cases_[i], exact_[i], form, verdict);
  }

 private:
  /// Results that are f32 whatever the type of the activations are held to the bound of f32.
  void judge(const ops::OpCase& c,
             const std::vector<Tensor>& exact,
             Impl form,
             Verdict& verdict) const {
    stop_if_interrupted();
    const std::vector<Tensor> results = c.run(form, device_);
    for (size_t i = 0; i < results.size(); ++i) {
      const Tensor result = is_named(broken_, form) ? results[i] * 1.01 : results[i];
      const double scale = verdict.output_bound / output_bound(result.scalar_type());
      const double error = scale * kernels::relative_rms(result, exact[i]);
      if (verdict.worst.empty() || error > verdict.output_error)
        verdict.worst = c.name;
      verdict.output_error = std::max(verdict.output_error, error);
    }
    ++verdict.cases;
  }

  const ops::Op& op_;
  at::Device device_;
  const std::string& broken_;
  std::vector<ops::OpCase> cases_;
  std::vector<std::vector<Tensor>> exact_;  // of each case
};

}  // namespace

std::vector<Verdict> verify_op(const ops::Op& op,
                               at::Device device,
                               const std::string& broken,
                               const OnVerdict& on_verdict) {
  const FormCheck check(op, device, broken);
  std::vector<Verdict> verdicts;
  for (const Impl form : op.forms)
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      if (form == Impl::Reference || !check.takes(form, type))
        continue;
      Verdict verdict = check.begin(form, type);
      on_verdict(verdict, false);
      check.run(form, type, verdict);
      verdicts.push_back(verdict);
      on_verdict(verdict, true);
    }
  return verdicts;
}

std::vector<Verdict> verify_kernels(const VerifyKernelsOptions& options,
                                    const OnVerdict& on_verdict) {
  std::vector<const ops::Op*> chosen = ops::all_ops();
  if (options.op != "all")
    chosen = {&ops::find_op(options.op)};
  else if (options.family != "all")  // which is the recurrence's
    std::erase_if(chosen, [](const ops::Op* op) { return op->cases != nullptr; });
  std::vector<Verdict> verdicts;
  for (const at::Device device : options.devices)
    for (const ops::Op* op : chosen)
      for (const Verdict& verdict : op->cases ? verify_op(*op, device, options.broken, on_verdict)
                                              : verify_scan(device, options, on_verdict))
        verdicts.push_back(verdict);
  return verdicts;
}

}  // namespace stuffed::eval
