#include "stuffed/models/parameters.h"

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
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

namespace {

const WeightSource& source_of(const io::TensorDirectory& file,
                              const WeightMap& map,
                              const std::string& name) {
  const auto source = map.sources.find(name);
  check(source != map.sources.end() && file.has(source->second.file_name), Error::Kind::Input,
        "{}: tensor '{}' is missing; is the file complete?", file.path().string(),
        source == map.sources.end() ? name : source->second.file_name);
  return source->second;
}

/// The canonical tensor out of the file's, of which it may be a slice or a transpose; checked.
Tensor canonical(const io::TensorDirectory& file,
                 const WeightSource& source,
                 Tensor tensor,
                 const std::vector<int64_t>& shape,
                 const std::string& hint) {
  const std::string path = file.path().string();
  check(at::isFloatingType(tensor.scalar_type()), Error::Kind::Input,
        "{}: tensor '{}' holds {}, expected floating-point weights", path, source.file_name,
        at::toString(tensor.scalar_type()));
  if (source.convert) {
    const std::vector<int64_t> found = tensor.sizes().vec();
    try {
      tensor = source.convert(tensor);
    } catch (const c10::Error&) {  // too few axes or slices for what the layout keeps there
      fail(Error::Kind::Input,
           "{}: tensor '{}' has shape [{}], from which no [{}] can be taken ({}); is this the "
           "checkpoint its config.json describes?",
           path, source.file_name, fmt::join(found, ", "), fmt::join(shape, ", "), hint);
    }
  }
  check(tensor.sizes() == at::IntArrayRef(shape), Error::Kind::Input,
        "{}: tensor '{}' has shape [{}], expected [{}] ({}); is this the checkpoint its "
        "config.json describes?",
        path, source.file_name, fmt::join(tensor.sizes(), ", "), fmt::join(shape, ", "), hint);
  return tensor;
}

void check_nothing_left(const io::TensorDirectory& file,
                        const WeightMap& map,
                        const std::set<std::string>& used,
                        const std::string& hint) {
  std::vector<std::string> unknown;
  for (const auto& [name, entry] : file.entries())
    if (!used.contains(name) && !map.ignored.contains(name) && !entry.is_alias)
      unknown.push_back(name);
  check(unknown.empty(), Error::Kind::Input,
        "{}: {} tensors are not part of this model ({}), such as '{}'; the numbers would not be "
        "the checkpoint's",
        file.path().string(), unknown.size(), hint, unknown.empty() ? "" : unknown.front());
}

}  // namespace

void ParameterLoader::parameter(const std::string& name,
                                Tensor& home,
                                std::vector<int64_t> shape,
                                Role role) {
  stop_if_interrupted();
  const WeightSource& source = source_of(file_.directory(), map_, name);
  used_.insert(source.file_name);
  const bool keeps_precision = role != Role::Matrix && role != Role::Embedding;
  const Tensor tensor =
      canonical(file_.directory(), source, file_.load(source.file_name), shape, hint_);
  // A copy even where the type is right: a view of the mapped file would change with the file.
  home = tensor.to(at::TensorOptions().dtype(keeps_precision ? at::kFloat : dtype_).device(device_),
                   /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  file_.release(source.file_name);
}

void ParameterLoader::finish() const {
  check_nothing_left(file_.directory(), map_, used_, hint_);
}

void ParameterCounter::parameter(const std::string& name,
                                 Tensor&,
                                 std::vector<int64_t> shape,
                                 Role) {
  const WeightSource& source = source_of(file_, map_, name);
  used_.insert(source.file_name);
  const io::TensorEntry& entry = file_.entries().at(source.file_name);
  // A meta tensor has a shape and no data: the layout's slices and transposes work on it alike.
  const Tensor shaped =
      at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype).device(at::kMeta));
  elements_ += canonical(file_, source, shaped, shape, hint_).numel();
}

void ParameterCounter::finish() const {
  check_nothing_left(file_, map_, used_, hint_);
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
