#include "kernels/common/recompute.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

namespace stuffed::kernels {

namespace {

class RecomputeNode : public torch::autograd::Node {
 public:
  RecomputeNode(TensorFunction function, const std::vector<Tensor>& inputs, bool reads_leaves)
      : function_(std::move(function)), reads_leaves_(reads_leaves) {
    for (const Tensor& input : inputs)
      saved_.emplace_back(input, /*is_output=*/false);
  }

  void release_variables() override { saved_.clear(); }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& output_gradients) override {
    const at::AutoGradMode enable(true);
    std::vector<Tensor> inputs, wanted;
    for (size_t i = 0; i < saved_.size(); ++i) {
      const Tensor input = saved_[i].unpack();
      inputs.push_back(input.defined() ? input.detach() : input);
      if (task_should_compute_output(i))
        wanted.push_back(inputs.back().set_requires_grad(true));
    }
    std::vector<Tensor> outputs, gradients;
    const std::vector<Tensor> recomputed = function_(inputs);
    for (size_t i = 0; i < recomputed.size(); ++i)
      if (output_gradients[i].defined() && recomputed[i].requires_grad()) {
        outputs.push_back(recomputed[i]);
        gradients.push_back(output_gradients[i]);
      }
    const std::vector<Tensor> found = differentiate(outputs, gradients, wanted);
    torch::autograd::variable_list result(inputs.size());
    for (size_t i = 0, next = 0; i < inputs.size(); ++i)
      if (task_should_compute_output(i))
        result[i] = found[next++];
    return result;
  }

 private:
  /// By each wanted input; undefined where no output depends on it.
  std::vector<Tensor> differentiate(const std::vector<Tensor>& outputs,
                                    const std::vector<Tensor>& gradients,
                                    const std::vector<Tensor>& wanted) const {
    std::vector<Tensor> found(wanted.size());
    if (outputs.empty() || (wanted.empty() && !reads_leaves_))
      return found;
    if (!reads_leaves_)
      return torch::autograd::grad(outputs, wanted, gradients, std::nullopt,
                                   /*create_graph=*/false, /*allow_unused=*/true);
    torch::autograd::backward(outputs, gradients);
    for (size_t i = 0; i < wanted.size(); ++i)
      found[i] = wanted[i].grad();
    return found;
  }

  TensorFunction function_;
  bool reads_leaves_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

bool any_requires_grad(const std::vector<Tensor>& tensors) {
  return std::ranges::any_of(tensors,
                             [](const Tensor& x) { return x.defined() && x.requires_grad(); });
}

/// Makes `outputs`, which have no history, those of a node that runs `function` again.
void set_recomputed(const TensorFunction& function,
                    const std::vector<Tensor>& inputs,
                    bool reads_leaves,
                    std::vector<Tensor>& outputs) {
  const auto node = std::shared_ptr<RecomputeNode>(
      new RecomputeNode(function, inputs, reads_leaves), torch::autograd::deleteNode);
  {
    const at::AutoGradMode enable(true);
    node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  }
  for (Tensor& output : outputs)
    torch::autograd::set_history(output, node);
}

}  // namespace

std::vector<Tensor> recompute(const TensorFunction& function, const std::vector<Tensor>& inputs) {
  const bool gradient = at::GradMode::is_enabled() && any_requires_grad(inputs);
  const at::AutoGradMode no_graph(false);
  std::vector<Tensor> outputs = function(inputs);
  if (gradient)
    set_recomputed(function, inputs, /*reads_leaves=*/false, outputs);
  return outputs;
}

std::vector<Tensor> recompute_with_leaves(const TensorFunction& function,
                                          const std::vector<Tensor>& inputs) {
  if (!at::GradMode::is_enabled() || !any_requires_grad(inputs))
    return function(inputs);
  std::vector<Tensor> detached;
  for (const Tensor& input : inputs)
    detached.push_back(input.defined() ? input.detach().set_requires_grad(input.requires_grad())
                                       : input);
  std::vector<Tensor> outputs;
  for (const Tensor& output : function(detached))  // its graph goes with what is not detached
    outputs.push_back(output.detach());
  const at::AutoGradMode no_graph(false);
  set_recomputed(function, inputs, /*reads_leaves=*/true, outputs);
  return outputs;
}

}  // namespace stuffed::kernels
