#include "stuffed/core/dtype.h"

#include "stuffed/core/error.h"

namespace stuffed {

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "f32";
    case at::kBFloat16:
      return "bf16";
    case at::kHalf:
      return "f16";
    case at::kDouble:
      return "f64";
    default:
      return c10::toString(dtype);
  }
}

at::ScalarType parse_dtype(std::string_view name) {
  check(name == "f32" || name == "bf16", Error::Kind::Usage,
        "'{}' is not a dtype; expected f32 or bf16", name);
  return name == "f32" ? at::kFloat : at::kBFloat16;
}

}  // namespace stuffed
