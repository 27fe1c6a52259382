#include "stuffed/models/parameters.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"

namespace stuffed {

void ParameterVisitor::matrix(const std::string& name,
                              ops::Linear& layer,
                              std::vector<int64_t> shape) {
  parameter(name, layer.weight, std::move(shape), Role::Matrix);
}

ParameterLoader::ParameterLoader(const io::TensorFile& file,
                                 const WeightMap& map,
                                 at::ScalarType dtype,
                                 at::Device device,
                                 std::string hint)
    : file_(file), map_(map), dtype_(dtype), device_(device), hint_(std::move(hint)) {}

void ParameterLoader::parameter(const std::string& name,
                                Tensor& home,
                                std::vector<int64_t> shape,
                                Role role) {
  const auto source = map_.sources.find(name);
  check(source != map_.sources.end() && file_.has(source->second.file_name), Error::Kind::Input,
        "{}: tensor '{}' is missing; is the file complete?", file_.path().string(),
        source == map_.sources.end() ? name : source->second.file_name);
  const std::string& file_name = source->second.file_name;
  used_.insert(file_name);

  const bool keeps_precision = role != Role::Matrix && role != Role::Embedding;
  Tensor tensor = file_.load(file_name);
  check(at::isFloatingType(tensor.scalar_type()), Error::Kind::Input,
        "{}: tensor '{}' holds {}, expected floating-point weights", file_.path().string(),
        file_name, at::toString(tensor.scalar_type()));
  if (source->second.convert)
    tensor = source->second.convert(tensor);
  check(tensor.sizes() == at::IntArrayRef(shape), Error::Kind::Input,
        "{}: tensor '{}' has shape [{}], expected [{}] ({}); is this the checkpoint its "
        "config.json describes?",
        file_.path().string(), file_name, fmt::join(tensor.sizes(), ", "), fmt::join(shape, ", "),
        hint_);
  // A copy even where the type is right: a view of the mapped file would change with the file.
  home = tensor.to(at::TensorOptions().dtype(keeps_precision ? at::kFloat : dtype_).device(device_),
                   /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  file_.release(file_name);
}

void ParameterLoader::finish() const {
  std::vector<std::string> unknown;
  for (const auto& [name, entry] : file_.entries())
    if (!used_.contains(name) && !map_.ignored.contains(name))
      unknown.push_back(name);
  check(unknown.empty(), Error::Kind::Input,
        "{}: {} tensors are not part of this model ({}), such as '{}'; the numbers would not be "
        "the checkpoint's",
        file_.path().string(), unknown.size(), hint_, unknown.empty() ? "" : unknown.front());
}

void ParameterCounter::parameter(const std::string& name,
                                 Tensor&,
                                 std::vector<int64_t> shape,
                                 Role) {
  const auto source = map_.sources.find(name);
  check(source != map_.sources.end() && file_.has(source->second.file_name), Error::Kind::Input,
        "{}: tensor '{}' is missing; is the file complete?", file_.path().string(),
        source == map_.sources.end() ? name : source->second.file_name);
  int64_t elements = 1;
  for (const int64_t size : shape)
    elements *= size;
  elements_ += elements;
}

void ParameterInitialiser::parameter(const std::string& name,
                                     Tensor& home,
                                     std::vector<int64_t> shape,
                                     Role role) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Generator generator = at::detail::createCPUGenerator(Rng(seed_, name).next());
  Tensor value;
  switch (role) {
    case Role::Embedding:
      value = at::normal(0.0, 0.02, shape, generator, options);
      break;
    case Role::Matrix:
    case Role::Conv: {
      const double bound = 1 / std::sqrt(static_cast<double>(shape.back()));
      value = at::empty(shape, options).uniform_(-bound, bound, generator);
      break;
    }
    case Role::Norm:
      value = at::ones(shape, options);
      break;
    case Role::Bias:
    case Role::Gate:
      value = at::zeros(shape, options);
      break;
  }
  home = value.to(device_);
}

void ParameterList::parameter(const std::string& name,
                              Tensor& home,
                              std::vector<int64_t>,
                              Role role) {
  items.push_back({name, &home, role});
}

}  // namespace stuffed
