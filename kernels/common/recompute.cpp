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
  RecomputeNode(TensorFunction function, const std::vector<Tensor>& inputs)
      : function_(std::move(function)) {
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
    std::vector<Tensor> found(wanted.size());
    if (!outputs.empty() && !wanted.empty())
      found = torch::autograd::grad(outputs, wanted, gradients, std::nullopt,
                                    /*create_graph=*/false, /*allow_unused=*/true);

    torch::autograd::variable_list result(inputs.size());
    for (size_t i = 0, next = 0; i < inputs.size(); ++i)
      if (task_should_compute_output(i))
        result[i] = found[next++];
    return result;
  }

 private:
  TensorFunction function_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

}  // namespace

std::vector<Tensor> recompute(const TensorFunction& function, const std::vector<Tensor>& inputs) {
  const bool gradient =
      at::GradMode::is_enabled() &&
      std::ranges::any_of(inputs, [](const Tensor& x) { return x.defined() && x.requires_grad(); });
  const at::AutoGradMode no_graph(false);
  std::vector<Tensor> outputs = function(inputs);
  if (gradient) {
    const auto node = std::shared_ptr<RecomputeNode>(new RecomputeNode(function, inputs),
                                                     torch::autograd::deleteNode);
    {
      const at::AutoGradMode enable(true);
      node->set_next_edges(torch::autograd::collect_next_edges(inputs));
    }
    for (Tensor& output : outputs)
      torch::autograd::set_history(output, node);
  }
  return outputs;
}

}  // namespace stuffed::kernels
