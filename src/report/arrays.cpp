#include "arrays.h"

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::report {

namespace {

Array array_from(const Tensor& tensor) {
  const Tensor whole = tensor.to(at::kDouble).contiguous();
  const double* const data = whole.const_data_ptr<double>();
  return {.shape = whole.sizes().vec(), .values = {data, data + whole.numel()}};
}

}  // namespace

std::optional<Arrays> Arrays::open(const Run& run, std::string& why) {
  why = "its arrays are not named";
  if (run.arrays.empty())
    return {};
  std::error_code error;
  const bool is_whole = std::filesystem::is_regular_file(run.arrays, error);
  const auto part = std::filesystem::path(run.arrays).concat(".partial") / "document=0.safetensors";
  try {
    return Arrays(io::TensorFile::open(is_whole || run.finished ? run.arrays : part), !is_whole);
  } catch (const Error& problem) {
    why = problem.what();
    return {};
  }
}

Array Arrays::load(const std::string& name) const {
  check(file_.has(name), Error::Kind::Input, "{}: holds no array '{}'", file_.path().string(),
        name);
  return array_from(file_.load(name));
}

Array Arrays::of_document(const std::string& name) const {
  check(file_.has(name), Error::Kind::Input, "{}: holds no array '{}'", file_.path().string(),
        name);
  const Tensor tensor = file_.load(name);
  check(is_part_ || (tensor.dim() > 0 && tensor.size(0) > 0), Error::Kind::Input,
        "{}: '{}' has no document", file_.path().string(), name);
  return array_from(is_part_ ? tensor : tensor[0]);
}

}  // namespace stuffed::report
