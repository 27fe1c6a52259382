#include "stuffed/core/dtype.h"

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

}  // namespace stuffed
