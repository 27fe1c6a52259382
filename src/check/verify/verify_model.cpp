// One stream through a model in every way there is.
#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "kernels/common/closeness.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/check/verify.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/memory.h"
#include "stuffed/eval/stream.h"
#include "stuffed/models/one_token.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

namespace {

/// What a stream leaves behind, on the CPU.
struct Outcome {
  Tensor nll;                 // [N] f32
  std::vector<Tensor> state;  // [1,H,K,V] f32 of each layer
};

struct Bounds {
  double output, state;
};

/// Between two ways of one dtype: how their products are cut decides the rounding. In bf16 a value
/// that rounds the other way (2^-9) in an early layer is carried through all later ones.
Bounds bounds_between(at::ScalarType dtype) {
  return dtype == at::kFloat ? Bounds{1e-4, 1e-4} : Bounds{2e-2, 5e-2};
}

/// Of bf16 against f32: every activation is rounded once in each layer.
constexpr Bounds kRounding = {5e-2, 2e-1};

Outcome feed(const RecurrentLM& model,
             const Recurrence& rule,
             const Tensor& tokens,
             int64_t segment) {
  State state = model.initial_state(1);
  std::vector<Tensor> nll;
  stream(model, rule, tokens, state, segment, [&](const Segment& part) {
    stop_if_interrupted();
    nll.push_back(ops::linear_cross_entropy(part.out.hidden, model.head().linear,
                                            model.head().vocab, part.targets)
                      .view(-1));
  });
  Outcome out{.nll = at::cat(nll).to(at::kCPU), .state = {}};
  for (const LayerState& layer : state.layers)
    out.state.push_back(layer.recurrent.to(at::kCPU));
  return out;
}

void compare(const Outcome& actual, const Outcome& expected, Verdict& verdict) {
  verdict.output_error = kernels::relative_rms(actual.nll, expected.nll);
  for (size_t i = 0; i < actual.state.size(); ++i)
    verdict.state_error =
        std::max(verdict.state_error, kernels::relative_rms(actual.state[i], expected.state[i]));
}

std::string path_name(int64_t segment, int64_t tokens) {
  return segment >= tokens ? "whole"
         : segment == 1    ? "one by one"
                           : fmt::format("segments of {}", segment);
}

/// Runs `body`; memory that does not suffice becomes the verdict's reason.
template <class Body>
void run_if_it_fits(Verdict& verdict, const Body& body) {
  constexpr const char* kReason = "not enough memory";
  try {
    body();
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error))
      throw;
    verdict.not_run = kReason;
  }
}

class ModelCheck {
 public:
  ModelCheck(const Tensor& tokens, const VerifyModelOptions& options, const OnVerdict& on_verdict)
      : tokens_(tokens), options_(options), on_verdict_(on_verdict) {}

  void run(RecurrentLM& model) {
    const bool on_cpu = model.device().is_cpu(), is_f32 = model.dtype() == at::kFloat;
    const Impl base_impl = on_cpu ? Impl::Reference : Impl::Aten, tried = Impl::Auto;
    const int64_t N = tokens_.size(1) - 1;
    probe(model);
    base_.reset();
    // The base of this device and dtype, itself compared with f32 on the CPU where that was run.
    if (f32_) {
      judge(model, base_impl, N, *f32_, f32_name_, is_f32 ? bounds_between(at::kFloat) : kRounding);
    } else {
      base_ = feed(model, *rule(base_impl, N), tokens_, N);
      f32_ = base_;
      f32_name_ = name_of(model, base_impl, N, N);
    }
    if (!base_)
      return;  // it did not fit: nothing to compare with
    const std::string base_name = name_of(model, base_impl, N, N);
    std::vector<int64_t> segments = {N};
    for (const int64_t segment : options_.segments)
      if (segment < N)
        segments.push_back(segment);
    const Outcome base = *base_;
    for (const int64_t segment : segments)
      judge(model, tried, segment, base, base_name, bounds_between(model.dtype()));
    for (const int64_t length : options_.long_lengths)
      judge_long(model, tried, length);
    if (options_.past_2g && !on_cpu)
      judge_long(model, tried, length_past_2g(model));
  }

  std::vector<Verdict> verdicts;

 private:
  /// Keeps the inputs that this model gives its recurrence, for `program`.
  void probe(const RecurrentLM& model) {
    Watch watch([&](Where, const ScanInputs& in, const LayerState& after) {
      token_ = in;
      state_ = after.recurrent;
    });
    feed_one_token(model, *build_recurrence({.mitigations = {}, .observer = &watch}));
  }

  /// What runs `impl` for segments of so many tokens.
  Impl program(Impl impl, int64_t tokens) const {
    return ops::choose(kernels::repeat_token(token_, tokens), state_, impl);
  }

  std::shared_ptr<const Recurrence> rule(Impl impl, int64_t segment) const {
    RecurrenceOptions how{.mitigations = {}, .impl = impl};
    if (is_named(options_.broken, program(impl, segment)))
      how.mitigations = {"scale_gates:insert=1.01"};
    return build_recurrence(how);
  }

  static std::string device_of(const RecurrentLM& model) {
    return model.device().is_cuda() ? "cuda" : "cpu";
  }

  std::string name_of(const RecurrentLM& model, Impl impl, int64_t segment, int64_t tokens) const {
    return fmt::format("{} {} {}, {}", device_of(model), dtype_name(model.dtype()),
                       impl_name(program(impl, segment)), path_name(segment, tokens));
  }

  Verdict begin(const RecurrentLM& model,
                Impl impl,
                int64_t segment,
                int64_t tokens,
                const std::string& against,
                const Bounds& bounds) const {
    Verdict verdict{.subject = "model",
                    .device = device_of(model),
                    .dtype = dtype_name(model.dtype()),
                    .impl = std::string(impl_name(program(impl, segment))),
                    .path = path_name(segment, tokens),
                    .against = against,
                    .tokens = tokens,
                    .output_bound = bounds.output,
                    .state_bound = bounds.state,
                    .worst = {},
                    .not_run = {}};
    on_verdict_(verdict, false);
    return verdict;
  }

  void finish(const Verdict& verdict) {
    verdicts.push_back(verdict);
    on_verdict_(verdict, true);
  }

  void judge(const RecurrentLM& model,
             Impl impl,
             int64_t segment,
             const Outcome& expected,
             const std::string& against,
             const Bounds& bounds) {
    const int64_t N = tokens_.size(1) - 1;
    Verdict verdict = begin(model, impl, segment, N, against, bounds);
    run_if_it_fits(verdict, [&] {
      const Outcome actual = feed(model, *rule(impl, segment), tokens_, segment);
      compare(actual, expected, verdict);
      if (!base_)
        base_ = actual;
    });
    finish(verdict);
  }

  /// The whole stream in one segment, where offsets pass 2^31, against pieces where none does.
  void judge_long(const RecurrentLM& model, Impl impl, int64_t length) {
    Verdict verdict =
        begin(model, impl, length, length, name_of(model, impl, options_.piece, length),
              bounds_between(model.dtype()));
    const at::Generator generator = at::detail::createCPUGenerator(options_.seed);
    const Tensor tokens = at::randint(0, model.config().vocab, {1, length + 1}, generator,
                                      at::TensorOptions(at::kLong));
    run_if_it_fits(verdict, [&] {
      const Outcome expected = feed(model, *rule(impl, options_.piece), tokens, options_.piece);
      compare(feed(model, *rule(impl, length), tokens, length), expected, verdict);
    });
    finish(verdict);
  }

  const Tensor tokens_;
  const VerifyModelOptions& options_;
  const OnVerdict& on_verdict_;
  std::optional<Outcome> f32_;   // the first base of all: f32, on the CPU if it takes part
  std::optional<Outcome> base_;  // of the device and dtype at hand
  std::string f32_name_;
  ScanInputs token_;  // what the last layer of the model at hand gives its recurrence
  Tensor state_;
};

/// The widest matrix of a layer is the widest activation; the head's logits come a few rows at a
/// time.
struct WidestRow : ParameterVisitor {
  void parameter(const std::string&, Tensor&, std::vector<int64_t>, Role) override {}
  void matrix(const std::string&, ops::Linear&, std::vector<int64_t> shape) override {
    if (shape.front() != padded_vocab)
      width = std::max(width, shape.front());
  }
  int64_t padded_vocab = 0, width = 1;
};

}  // namespace

int64_t length_past_2g(RecurrentLM& model) {
  WidestRow widest;
  widest.padded_vocab = model.config().padded_vocab;
  model.visit(widest);
  return (int64_t{1} << 31) / widest.width + 64;
}

std::vector<Verdict> verify_model(const OpenModel& open,
                                  const Tensor& tokens,
                                  const VerifyModelOptions& options,
                                  const OnVerdict& on_verdict) {
  check(tokens.dim() == 2 && tokens.size(0) == 1 && tokens.size(1) >= 2, Error::Kind::Internal,
        "verify_model: tokens [{}], expected [1,N+1]", fmt::join(tokens.sizes(), ","));
  ModelCheck check(tokens, options, on_verdict);
  for (const at::Device device : options.devices)
    for (const at::ScalarType dtype : options.dtypes)
      check.run(*open(device, dtype));
  return check.verdicts;
}

}  // namespace stuffed::eval
