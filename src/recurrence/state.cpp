#include "stuffed/recurrence/state.h"

#include <functional>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed {

namespace {

LayerState map(const LayerState& layer, const std::function<Tensor(const Tensor&)>& f) {
  const auto apply = [&](const Tensor& x) { return x.defined() ? f(x) : x; };
  LayerState result{apply(layer.recurrent), apply(layer.conv), apply(layer.shift), {}};
  for (const auto& [name, tensor] : layer.extra)
    result.extra[name] = apply(tensor);
  return result;
}

State map(const State& state, const std::function<Tensor(const Tensor&)>& f) {
  State result{state.position, {}};
  for (const LayerState& layer : state.layers)
    result.layers.push_back(map(layer, f));
  return result;
}

/// Pointers to a layer's tensors in an order that depends on nothing but which slots exist.
std::map<std::string, Tensor> by_name(const LayerState& layer) {
  std::map<std::string, Tensor> tensors = layer.extra;
  tensors["."] = layer.recurrent;
  tensors[".conv"] = layer.conv;
  tensors[".shift"] = layer.shift;
  std::erase_if(tensors, [](const auto& entry) { return !entry.second.defined(); });
  return tensors;
}

LayerState concat_layers(const std::vector<State>& states, size_t layer) {
  std::map<std::string, std::vector<Tensor>> parts;
  for (const State& state : states)
    for (const auto& [name, tensor] : by_name(state.layers[layer]))
      parts[name].push_back(tensor);
  LayerState result;
  for (const auto& [name, tensors] : parts) {
    check(tensors.size() == states.size(), Error::Kind::Internal,
          "State::concat: slot '{}' of layer {} exists in {} of {} states; join states of one "
          "model and position",
          name, layer, tensors.size(), states.size());
    Tensor& home = name == "."        ? result.recurrent
                   : name == ".conv"  ? result.conv
                   : name == ".shift" ? result.shift
                                      : result.extra[name];
    home = at::cat(tensors, 0);
  }
  return result;
}

}  // namespace

State State::fork(int64_t copies) const {
  return map(*this, [copies](const Tensor& x) {
    check(x.size(0) == 1, Error::Kind::Internal,
          "State::fork: the state has a batch of {}, expected 1; select a row first", x.size(0));
    std::vector<int64_t> shape = x.sizes().vec();
    shape[0] = copies;
    return x.expand(shape);
  });
}

State State::select(at::IntArrayRef rows) const {
  return map(*this, [rows](const Tensor& x) {
    return x.index_select(0, at::tensor(rows, at::TensorOptions(at::kLong)).to(x.device()));
  });
}

State State::concat(const std::vector<State>& states) {
  check(!states.empty(), Error::Kind::Internal, "State::concat: no states given");
  State result{states[0].position, {}};
  for (const State& state : states)
    check(state.position == result.position && state.layers.size() == states[0].layers.size(),
          Error::Kind::Internal,
          "State::concat: a state at position {} with {} layers meets one at {} with {}",
          result.position, states[0].layers.size(), state.position, state.layers.size());
  for (size_t layer = 0; layer < states[0].layers.size(); ++layer)
    result.layers.push_back(concat_layers(states, layer));
  return result;
}

int64_t State::bytes() const {
  int64_t sum = 0;
  for (const LayerState& layer : layers)
    for (const auto& [name, tensor] : by_name(layer))
      sum += static_cast<int64_t>(tensor.nbytes());
  return sum;
}

}  // namespace stuffed
