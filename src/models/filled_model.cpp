#include "filled_model.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include "stuffed/core/rng.h"

namespace stuffed {

void RandomFiller::parameter(const std::string& name,
                             Tensor& home,
                             std::vector<int64_t> shape,
                             Role role) {
  at::Generator generator = at::globalContext().defaultGenerator(device_).clone();
  generator.set_current_seed(Rng(seed_, name).next());
  const bool is_weight = role == Role::Matrix || role == Role::Embedding;
  home = at::empty(shape, at::TensorOptions(device_).dtype(is_weight ? dtype_ : at::kFloat));
  const double bound = 1 / std::sqrt(static_cast<double>(shape.back()));
  switch (role) {
    case Role::Embedding:
      home.normal_(0, 1, generator);
      break;
    case Role::Matrix:
    case Role::Conv:
      home.uniform_(-bound, bound, generator);
      break;
    case Role::Norm:
      home.fill_(1);
      break;
    case Role::Bias:
      home.fill_(0);
      break;
    case Role::Gate:
      home.normal_(0, 0.5, generator);
      break;
  }
}

}  // namespace stuffed
