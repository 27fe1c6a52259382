// Whole models: prefill, the evaluation loop, decoding.
#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "bench_gate.h"
#include "bench_record.h"
#include "kernels/common/closeness.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/core/memory.h"
#include "stuffed/eval/decode.h"
#include "stuffed/models/family.h"
#include "stuffed/models/registry.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kDecodePrompt = 512;  // tokens a decode step has behind it, at most
// Where bf16 alone is further from f32 than this (relative RMS), no wrong step could be told.
constexpr double kMostRounding = 0.25;
constexpr int64_t kCheckedTokens = 32;  // losses looked at; tokens decoded one by one and in one go

const char* phase_name(Phase phase) {
  return phase == Phase::Prefill ? "prefill" : phase == Phase::Evaluate ? "evaluate" : "decode";
}

/// Elements of the matrices that every token is multiplied with, the head's apart.
struct MatrixElements : ParameterVisitor {
  void parameter(const std::string& name, Tensor&, std::vector<int64_t> shape, Role role) override {
    int64_t elements = 1;
    for (const int64_t size : shape)
      elements *= size;
    if (role == Role::Matrix && !name.ends_with("head.weight"))
      count += elements;
  }
  void matrix(const std::string& name, ops::Linear& layer, std::vector<int64_t> shape) override {
    parameter(name, layer.weight, std::move(shape), Role::Matrix);
  }
  int64_t count = 0;
};

class ModelBench {
 public:
  ModelBench(RecurrentLM& model,
             const std::string& name,
             int64_t decode_steps,
             const BenchOptions& options)
      : model_(model),
        name_(name),
        decode_steps_(decode_steps),
        options_(options),
        rule_(build_recurrence({.mitigations = mitigations(options), .impl = options.impl.scan})),
        ceilings_(ceilings_if_wanted(options)) {
    MatrixElements matrices;
    model.visit(matrices);
    layer_weights_ = static_cast<double>(matrices.count);
  }

  void run(const ModelCase& c, const OnRecord& on_record) {
    const auto record_one = [&](const char* what, auto body) {
      BenchRecord record = start(c, what);
      record_or_no_memory(record, [&] { body(record.fields); });
      on_record(record);
    };
    if (c.phase != Phase::Decode) {
      record_one(phase_name(c.phase), [&](io::json& fields) { read(c, fields); });
      return;
    }
    record_one("decode", [&](io::json& fields) { decode(c, fields); });
    record_one("decode-session", [&](io::json& fields) { decode_in_session(c, fields); });
  }

 private:
  static std::vector<std::string> mitigations(const BenchOptions& options) {
    return options.broken ? std::vector<std::string>{"scale_gates:insert=1.01"}
                          : std::vector<std::string>{};
  }

  const ModelConfig& config() const { return model_.config(); }

  BenchRecord start(const ModelCase& c, const char* what) const {
    const std::string device = options_.device.is_cuda() ? "cuda" : "cpu";
    return {.key = fmt::format("model/{}/{}/B{}_T{}/{}/{}/{}", name_, what, c.batch, c.tokens,
                               dtype_name(model_.dtype()), device, options_.impl.name()),
            .fields = {{"kind", "model"},
                       {"model", name_},
                       {"family", config().family},
                       {"phase", what},
                       {"batch", c.batch},
                       {"tokens", c.tokens},
                       {"layers", config().layers},
                       {"parameters", config().parameters},
                       {"dtype", dtype_name(model_.dtype())},
                       {"device", device},
                       {"impl", options_.impl.name()}}};
  }

  Tensor draw(int64_t batch, int64_t tokens) const {
    const at::Generator generator = at::detail::createCPUGenerator(options_.seed);
    return at::randint(0, config().vocab, {batch, tokens}, generator, at::TensorOptions(at::kLong))
        .to(model_.device());
  }

  Tensor losses(const Tensor& hidden, const Tensor& targets) const {
    return ops::linear_cross_entropy(hidden, model_.head().linear, config().vocab, targets);
  }

  /// First, middle and last layer.
  std::vector<int> checked_layers() const {
    const auto last = static_cast<int>(config().layers) - 1;
    return {0, last / 2, last};
  }

  /// Whether the recurrence's calls in this pass are right and its output is finite.
  bool forward_is_right(const Tensor& tokens, State& state, io::json& fields) const {
    ScanGate gate;
    const GatedRule gated(*rule_, checked_layers(), gate);
    const bool is_finite =
        model_.forward(tokens, state, gated).hidden.isfinite().all().item<bool>();
    fields["check"] = gate.record();
    fields["check"]["finite"] = is_finite;
    return gate.is_right() && is_finite;
  }

  bool losses_are_right(const Tensor& tokens, io::json& fields) const {
    const int64_t count = std::min(kCheckedTokens, tokens.size(1) - 1);
    State state = model_.initial_state(tokens.size(0));
    const Tensor inputs = tokens.narrow(1, 0, count), targets = tokens.narrow(1, 1, count);
    const Tensor hidden = model_.forward(inputs, state, *rule_).hidden;
    const Tensor logits = ops::linear(hidden, model_.head().linear).narrow(-1, 0, config().vocab);
    const Tensor exact =
        -at::log_softmax(logits.to(at::kDouble), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1);
    const double error = kernels::relative_rms(losses(hidden, targets), exact);
    fields["check"]["loss_relative_rms"] = io::number_or_null(error);
    fields["check"]["loss_bound"] = 1e-5;
    return error <= 1e-5;
  }

  /// Prefill, and with the head and the loss the evaluation loop.
  void read(const ModelCase& c, io::json& fields) {
    const bool scores = c.phase == Phase::Evaluate;
    const Tensor tokens = draw(c.batch, c.tokens + 1);
    const Tensor inputs = tokens.narrow(1, 0, c.tokens), targets = tokens.narrow(1, 1, c.tokens);
    State checked = model_.initial_state(c.batch);
    if (!forward_is_right(inputs, checked, fields) ||
        (scores && !losses_are_right(tokens, fields))) {
      fields["verdict"] = "REFUSED";
      return;
    }
    const Measured measured = measure(options_, /*flush=*/false, [&] {
      State state = model_.initial_state(c.batch);
      const Tensor hidden = model_.forward(inputs, state, *rule_).hidden;
      if (scores)
        losses(hidden, targets);
    });
    const auto count = static_cast<double>(c.batch * c.tokens);
    const Work scan = scan_work_of_layer();
    const double L = static_cast<double>(config().layers);
    const double weights = layer_weights_ + (scores ? head_weights() : 0);
    finish(fields, measured, count, weights * element_bytes() + count * L * scan.bytes,
           count * (2 * weights + L * scan.flops));
  }

  /// What decoding starts from.
  struct Prompt {
    Tensor tokens;  // [B,N]
    State state;    // after them
    Tensor hidden;  // [B,D], of the last
  };

  Prompt feed_prompt(const ModelCase& c) const {
    Prompt prompt{.tokens = draw(c.batch, std::min(c.tokens, kDecodePrompt)),
                  .state = model_.initial_state(c.batch),
                  .hidden = {}};
    prompt.hidden = model_.forward(prompt.tokens, prompt.state, *rule_).hidden.select(1, -1);
    return prompt;
  }

  void decode(const ModelCase& c, io::json& fields) {
    const Prompt prompt = feed_prompt(c);
    State stepwise = model_.initial_state(c.batch);
    const auto step = [&](const Tensor& tokens) {
      return model_.forward(tokens, stepwise, *rule_).hidden;
    };
    if (!decode_is_right(prompt, step, fields))
      return;
    const Measured measured = measure(options_, /*flush=*/false, [&] {
      State state = prompt.state;
      Tensor next = prompt.tokens.narrow(1, 0, 1);
      for (int64_t i = 0; i < decode_steps_; ++i)
        next = likeliest(model_.forward(next, state, *rule_).hidden);
    });
    finish_decode(c, prompt, measured, fields);
  }

  void decode_in_session(const ModelCase& c, io::json& fields) {
    const Prompt prompt = feed_prompt(c);
    DecodeSession session(model_, *rule_, {.batch = c.batch});
    session.load(model_.initial_state(c.batch));
    const auto step = [&](const Tensor& tokens) {
      session.step(tokens);
      return session.hidden().clone();
    };
    const std::string& reason = session.why_no_graph();
    fields["cuda_graph"] = reason.empty();
    fields["why_no_graph"] = reason.empty() ? io::json() : io::json(reason);
    if (!decode_is_right(prompt, step, fields))
      return;
    const Measured measured = measure(
        options_, /*flush=*/false, [&] { session.greedy(decode_steps_); },
        [&] { session.load(prompt.state, prompt.hidden); });
    finish_decode(c, prompt, measured, fields);
  }

  Tensor hidden_at_once(const Tensor& tokens) const {
    State state = model_.initial_state(tokens.size(0));
    return model_.forward(tokens, state, *rule_).hidden;
  }

  /// hidden_at_once() of this model in f32; undefined if it is that already, is packed, or does not
  /// fit beside itself.
  Tensor hidden_in_f32(const Tensor& tokens) const {
    if (model_.dtype() == at::kFloat || model_.device().is_cpu())
      return {};
    try {
      const InF32 wide(model_);
      return hidden_at_once(tokens);
    } catch (const std::exception& error) {
      if (!is_out_of_memory(error))
        throw;
      return {};
    }
  }

  /// The recurrence's calls of one step, and steps one by one (`step`: tokens [B,1] to hidden rows
  /// [B,1,D], from an initial state) against the same tokens in one go. In bf16 the latter are
  /// rounded too, the more so the deeper the model: where they can be had in f32, the steps may be
  /// half again as far from that as the tokens in one go.
  template <class Step>
  bool decode_is_right(const Prompt& prompt, const Step& step, io::json& fields) const {
    State checked = prompt.state;
    const bool calls_are_right = forward_is_right(prompt.tokens.narrow(1, 0, 1), checked, fields);
    const int64_t count = std::min(kCheckedTokens, prompt.tokens.size(1));
    const Tensor tokens = prompt.tokens.narrow(1, 0, count);
    const Tensor at_once = hidden_at_once(tokens), exact = hidden_in_f32(tokens);
    std::vector<Tensor> rows;
    for (int64_t i = 0; i < count; ++i)
      rows.push_back(step(prompt.tokens.narrow(1, i, 1)));
    const double error = kernels::relative_rms(at::cat(rows, 1), exact.defined() ? exact : at_once);
    // The products of one row and of many are cut differently.
    double bound = model_.dtype() == at::kFloat ? 1e-4 : 5e-2;
    if (exact.defined()) {
      const double rounding = kernels::relative_rms(at_once, exact);
      fields["check"]["at_once_relative_rms"] = io::number_or_null(rounding);
      bound = std::min(1.5 * rounding, kMostRounding);
    }
    fields["check"]["steps_against"] =
        exact.defined() ? "the same tokens in one go, in f32" : "the same tokens in one go";
    fields["check"]["steps_relative_rms"] = io::number_or_null(error);
    fields["check"]["steps_bound"] = bound;
    const bool is_right = calls_are_right && error <= bound;
    if (!is_right)
      fields["verdict"] = "REFUSED";
    return is_right;
  }

  void finish_decode(const ModelCase& c,
                     const Prompt& prompt,
                     const Measured& measured,
                     io::json& fields) const {
    const auto steps = static_cast<double>(decode_steps_), B = static_cast<double>(c.batch);
    const double weights = layer_weights_ + head_weights();
    const double state_bytes = 2 * 4 * static_cast<double>(model_.state_elements());
    fields["steps"] = decode_steps_;
    fields["prompt_tokens"] = prompt.tokens.size(1);
    finish(fields, measured, steps * B, steps * (weights * element_bytes() + B * state_bytes),
           steps * B * 2 * weights);
    fields["ms_per_step"] = measured.timing.median() * 1e3 / steps;
  }

  /// [B,1] from hidden rows [B,1,D]; the GPU is not waited for.
  Tensor likeliest(const Tensor& hidden) const {
    return ops::linear(hidden, model_.head().linear).narrow(-1, 0, config().vocab).argmax(-1);
  }

  void finish(
      io::json& fields, const Measured& measured, double tokens, double bytes, double flops) const {
    fields.update(measured.fields);
    fields.update(timing_fields(measured.timing, tokens, static_cast<double>(config().layers)));
    fields.update(work_fields(bytes, flops, tokens, measured.timing.median(), ceilings_));
  }

  Work scan_work_of_layer() const {
    return scan_work(find_family(config().family).terms,
                     {.heads = config().heads,
                      .key_width = config().key_width,
                      .value_width = config().value_width},
                     model_.dtype());
  }
  double head_weights() const {
    return static_cast<double>(config().padded_vocab) * static_cast<double>(config().d_model);
  }
  double element_bytes() const { return static_cast<double>(c10::elementSize(model_.dtype())); }

  RecurrentLM& model_;
  std::string name_;
  int64_t decode_steps_;
  BenchOptions options_;
  std::shared_ptr<const Recurrence> rule_;
  std::optional<Ceilings> ceilings_;
  double layer_weights_ = 0;
};

}  // namespace

Phase parse_phase(const std::string& name) {
  for (const Phase phase : {Phase::Prefill, Phase::Evaluate, Phase::Decode})
    if (name == phase_name(phase))
      return phase;
  fail(Error::Kind::Usage, "'{}' is not a phase; known are prefill, evaluate, decode", name);
}

void bench_model(RecurrentLM& model,
                 const std::string& name,
                 const std::vector<ModelCase>& cases,
                 int64_t decode_steps,
                 const BenchOptions& options,
                 const OnRecord& on_record) {
  ModelBench bench(model, name, decode_steps, options);
  for (const ModelCase& c : cases) {
    stop_if_interrupted();
    bench.run(c, on_record);
  }
}

}  // namespace stuffed::eval
