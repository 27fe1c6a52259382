// A family reads its configuration from tensor shapes, so a published size is made from the shapes
// it looks at.
#include "stuffed/models/shapes.h"

#include <algorithm>

#include "filled_model.h"
#include "stuffed/core/error.h"
#include "stuffed/models/family.h"

namespace stuffed {

namespace {

std::string shape_name(const Family& family, const ModelSize& size) {
  return fmt::format("{}-{}", family.name, size.name);
}

Checkpoint outlined(const std::string& name) {
  for (const Family* family : families())
    for (const ModelSize& size : family->sizes)
      if (shape_name(*family, size) == name) {
        const Outline outline = family->outline(size);
        return {.path = name,
                .weights = io::TensorDirectory::of_shapes(name, outline.shapes),
                .config = outline.config,
                .config_path = name};
      }
  fail(Error::Kind::Usage, "'{}' is not a known shape; known are {}", name,
       fmt::join(shape_names(), ", "));
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Family* family : families())
    for (const ModelSize& size : family->sizes)
      names.push_back(shape_name(*family, size));
  std::ranges::sort(names);
  return names;
}

std::unique_ptr<RecurrentLM> shape_skeleton(const std::string& name) {
  return filled_model(outlined(name), {}, {});
}

std::unique_ptr<RecurrentLM> random_model(const std::string& name,
                                          uint64_t seed,
                                          const LoadOptions& options) {
  const at::ScalarType dtype =
      options.dtype.value_or(options.device.is_cpu() ? at::kFloat : at::kBFloat16);
  const auto fill = [&](RecurrentLM& model) {
    RandomFiller filler(seed, dtype, options.device);
    model.visit(filler);
  };
  return filled_model(outlined(name), fill, options);
}

}  // namespace stuffed
