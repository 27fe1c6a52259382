#include "src/train/carried_state.h"

#include <array>
#include <functional>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "stuffed/core/rng.h"

namespace stuffed::train {

namespace {

using Visit = std::function<void(const std::string& slot, Tensor& tensor)>;

/// Every tensor of a state.
void visit(State& state, const Visit& f) {
  for (size_t i = 0; i < state.layers.size(); ++i) {
    LayerState& layer = state.layers[i];
    for (const auto& [slot, tensor] :
         {std::pair<const char*, Tensor*>{"recurrent", &layer.recurrent},
          {"conv", &layer.conv},
          {"shift", &layer.shift}})
      if (tensor->defined())
        f(fmt::format("{}.{}", i, slot), *tensor);
  }
}

}  // namespace

CarriedState::CarriedState(const RecurrentLM& model, const TrainConfig& config)
    : model_(model),
      segments_(config.segments),
      parts_(config.accumulate),
      rows_(config.batch / config.accumulate),
      initial_(config.initial_state),
      deviation_(config.noise_deviation),
      seed_(config.seed) {}

State CarriedState::empty() const {
  return model_.initial_state(rows_);
}

State CarriedState::start(int64_t step, int64_t part) const {
  const bool is_first = step % segments_ == 0;
  if (!is_first || (initial_ == InitialState::Passed && !left_.empty())) {
    State state = left_[static_cast<size_t>(part)];
    if (is_first)
      state.position = 0;
    return state;
  }
  return initial_ == InitialState::Noise || initial_ == InitialState::FittedNoise
             ? noise(step, part)
             : empty();
}

/// Fitted: with the mean and the deviation of each head's state that the step before left.
State CarriedState::noise(int64_t step, int64_t part) const {
  State state = empty();
  const bool is_fitted = initial_ == InitialState::FittedNoise;
  if (is_fitted && left_.empty())
    return state;
  for (size_t i = 0; i < state.layers.size(); ++i) {
    Tensor& recurrent = state.layers[i].recurrent;
    const at::Generator generator = at::detail::createCPUGenerator(
        Rng(seed_, fmt::format("initial state/{}/{}/{}", step, part, i)).next());
    const Tensor normal =
        at::normal(0.0, 1.0, recurrent.sizes(), generator, at::TensorOptions(at::kFloat))
            .to(recurrent.device());
    if (is_fitted) {
      const Tensor& seen = left_[static_cast<size_t>(part)].layers[i].recurrent;
      const std::array<int64_t, 3> but_heads = {0, 2, 3};
      recurrent = seen.mean(but_heads, true) +
                  normal * seen.var(but_heads, /*unbiased=*/false, true).sqrt();
    } else {
      recurrent = normal * deviation_;
    }
  }
  return state;
}

void CarriedState::finish(int64_t step, std::vector<State> left) {
  const bool is_last = (step + 1) % segments_ == 0;
  const bool is_asked_for =
      !is_last || initial_ == InitialState::Passed || initial_ == InitialState::FittedNoise;
  left_.clear();
  if (!is_asked_for)
    return;
  for (State& state : left)
    visit(state, [](const std::string&, Tensor& x) { x = x.detach(); });
  left_ = std::move(left);
}

NamedTensors CarriedState::tensors() const {
  NamedTensors all;
  for (size_t part = 0; part < left_.size(); ++part) {
    State state = left_[part];
    visit(state, [&](const std::string& slot, Tensor& x) {
      all.emplace_back(fmt::format("state.{}.{}", part, slot), x);
    });
  }
  return all;
}

void CarriedState::restore(const SavedRun& saved) {
  left_.clear();
  if (!saved.has("state.0.0.recurrent"))
    return;
  for (int64_t part = 0; part < parts_; ++part)
    left_.push_back(empty());
  saved.restore(tensors());
}

void restart(State& state, const std::vector<int64_t>& rows) {
  if (rows.empty())
    return;
  visit(state, [&](const std::string&, Tensor& x) {
    Tensor begins = at::zeros({x.size(0)}, at::TensorOptions(at::kBool));
    for (const int64_t row : rows)
      begins[row] = true;
    std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
    shape[0] = x.size(0);
    x = at::where(begins.view(shape).to(x.device()), at::zeros({}, x.options()), x);
  });
}

}  // namespace stuffed::train
