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

CarriedState::CarriedState(const RecurrentLM& model, const TrainConfig& config, Ranks& ranks)
    : model_(model),
      ranks_(ranks),
      segments_(config.segments),
      parts_(config.accumulate),
      rows_(config.batch / config.accumulate / ranks.size()),
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

/// Over the rows of all ranks.
CarriedState::Moments CarriedState::moments_of(const Tensor& recurrent) const {
  const std::array<int64_t, 3> but_heads = {0, 2, 3};
  const Tensor mean = recurrent.mean(but_heads, true);
  if (ranks_.is_alone())
    return {mean, recurrent.var(but_heads, /*unbiased=*/false, true).sqrt()};
  ranks_.average({mean});
  const Tensor variance = (recurrent - mean).square().mean(but_heads, true);
  ranks_.average({variance});
  return {mean, variance.sqrt()};
}

void CarriedState::prepare(int64_t step) {
  moments_.clear();
  if (initial_ != InitialState::FittedNoise || step % segments_ != 0)
    return;
  for (const State& state : left_) {
    moments_.emplace_back();
    for (const LayerState& layer : state.layers)
      moments_.back().push_back(moments_of(layer.recurrent));
  }
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
    std::vector<int64_t> shape = recurrent.sizes().vec();
    shape[0] *= ranks_.size();  // drawn for all ranks, whichever rows are whose
    const Tensor normal = at::normal(0.0, 1.0, shape, generator, at::TensorOptions(at::kFloat))
                              .narrow(0, ranks_.rank() * rows_, rows_)
                              .to(recurrent.device());
    if (is_fitted) {
      const Moments& moments = moments_[static_cast<size_t>(part)][i];
      recurrent = moments.mean + normal * moments.deviation;
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
  NamedTensors all = own_tensors();
  for (auto& [name, tensor] : all)
    tensor = ranks_.gather(tensor);
  return all;
}

NamedTensors CarriedState::own_tensors() const {
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
    left_.push_back(model_.initial_state(rows_ * ranks_.size()));
  saved.restore(own_tensors());
}

void CarriedState::share() {
  const auto parts = static_cast<uint32_t>(left_.size());
  if (ranks_.is_alone() || ranks_.agree(parts) == 0)
    return;
  for (int64_t part = 0; part < parts_ && !ranks_.is_first(); ++part)
    left_.push_back(model_.initial_state(rows_ * ranks_.size()));
  for (State& state : left_)
    visit(state, [this](const std::string&, Tensor& x) {
      ranks_.broadcast(std::vector<Tensor>{x});
      x = x.narrow(0, ranks_.rank() * rows_, rows_).clone();
    });
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
