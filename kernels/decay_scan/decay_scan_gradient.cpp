// The recurrence as autograd sees it.
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "kernels/decay_scan/decay_scan_aten_blocks.h"
#include "kernels/decay_scan/decay_scan_backward.h"

namespace stuffed::kernels {

namespace {

/// All that has a gradient, the state last.
std::vector<Tensor> list_of(const ScanInputs& in, const Tensor& state) {
  std::vector<Tensor> all;
  visit_tensors(in, [&](const ScanField&, const Tensor& x) { all.push_back(x); });
  all.push_back(state);
  return all;
}

class ScanNode : public torch::autograd::Node {
 public:
  ScanNode(ScanBackward backward, const ScanInputs& in, const Tensor& state, const ScanResult& out)
      : backward_(std::move(backward)),
        form_(without_tensors(in)),
        y_options_(out.y.options()),
        y_sizes_(out.y.sizes().vec()) {
    for (const Tensor& x : list_of(in, state))
      saved_.emplace_back(x, /*is_output=*/false);
  }

  void release_variables() override { saved_.clear(); }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& by_outputs) override {
    const at::AutoGradMode no_graph(false);
    std::vector<Tensor> inputs;
    for (const auto& saved : saved_)
      inputs.push_back(saved.unpack());
    const Tensor& state = inputs.back();
    const Tensor dy = by_outputs[0].defined() ? by_outputs[0] : at::zeros(y_sizes_, y_options_);
    const Tensor dstate = by_outputs[1].defined() ? by_outputs[1] : at::zeros_like(state);
    const ScanGradients found = backward_(with_tensors(form_, inputs), state, dy, dstate);
    torch::autograd::variable_list all = list_of(found.in, found.state);
    for (size_t i = 0; i < all.size(); ++i)
      if (!task_should_compute_output(i))
        all[i] = Tensor();
    return all;
  }

 private:
  ScanBackward backward_;
  ScanInputs form_;
  at::TensorOptions y_options_;
  std::vector<int64_t> y_sizes_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

}  // namespace

ScanResult with_gradient(const ScanFunction& scan,
                         const ScanBackward& backward,
                         const ScanInputs& in,
                         const Tensor& state) {
  ScanResult out;
  {
    const at::AutoGradMode no_graph(false);
    out = scan(in, state);
  }
  const auto node = std::shared_ptr<ScanNode>(new ScanNode(backward, in, state, out),
                                              torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(list_of(in, state)));
  for (Tensor* output : {&out.y, &out.state})
    torch::autograd::set_history(*output, node);
  return out;
}

}  // namespace stuffed::kernels
