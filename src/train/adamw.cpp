#include "src/train/adamw.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace stuffed::train {

namespace {

bool is_decayed(const ParameterList::Item& item, const std::vector<std::string>& undecayed) {
  const bool is_weight = item.role == Role::Matrix || item.role == Role::Embedding;
  return is_weight && std::ranges::none_of(undecayed, [&](const std::string& part) {
           return item.name.find(part) != std::string::npos;
         });
}

}  // namespace

AdamW::AdamW(const ParameterList& parameters, const AdamWOptions& options) : options_(options) {
  groups_ = {
      {.weight_decay = options.weight_decay, .names = {}, .weights = {}, .first = {}, .second = {}},
      {.weight_decay = 0, .names = {}, .weights = {}, .first = {}, .second = {}}};
  for (const ParameterList::Item& item : parameters.items) {
    Group& group = groups_[is_decayed(item, options.undecayed) ? 0 : 1];
    item.home->set_requires_grad(true);
    group.names.push_back(item.name);
    group.weights.push_back(*item.home);
    group.first.push_back(at::zeros_like(*item.home));
    group.second.push_back(at::zeros_like(*item.home));
  }
  steps_ = at::zeros({}, parameters.items.front().home->options().requires_grad(false));
}

std::vector<Tensor> AdamW::gradients() {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> all;
  for (Group& group : groups_)
    for (Tensor& weight : group.weights) {
      if (!weight.grad().defined())
        weight.mutable_grad() = at::zeros_like(weight);
      all.push_back(weight.grad());
    }
  return all;
}

Tensor AdamW::step(double learning_rate) {
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> gradients = this->gradients();
  const Tensor norm = at::stack(at::_foreach_norm(gradients)).norm();
  if (options_.clip > 0)
    at::_foreach_mul_(gradients, (options_.clip / (norm + 1e-6)).clamp_max(1.0));

  steps_.add_(1);
  auto gradient = gradients.begin();
  for (Group& group : groups_) {
    const auto count = static_cast<std::ptrdiff_t>(group.weights.size());
    const std::vector<Tensor> own(gradient, gradient + count);
    gradient += count;
    at::_fused_adamw_(group.weights, own, group.first, group.second, {},
                      std::vector<Tensor>(group.weights.size(), steps_), learning_rate,
                      options_.beta1, options_.beta2, group.weight_decay, options_.eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
  clear_gradients();
  return norm;
}

void AdamW::clear_gradients() {
  for (Group& group : groups_)
    for (Tensor& weight : group.weights)
      weight.mutable_grad().reset();
}

std::vector<std::pair<std::string, Tensor>> AdamW::tensors() const {
  std::vector<std::pair<std::string, Tensor>> all = {{"adamw.steps", steps_}};
  for (const Group& group : groups_)
    for (size_t i = 0; i < group.names.size(); ++i) {
      all.emplace_back("weight." + group.names[i], group.weights[i].detach());
      all.emplace_back("adamw.first." + group.names[i], group.first[i]);
      all.emplace_back("adamw.second." + group.names[i], group.second[i]);
    }
  return all;
}

}  // namespace stuffed::train
