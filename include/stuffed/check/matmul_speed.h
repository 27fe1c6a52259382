// What a device can do at best.
#pragma once
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace stuffed::eval {

/// FLOPs a second of a large matrix product, measured within a second or so.
double matmul_speed(at::Device device, at::ScalarType dtype);

}  // namespace stuffed::eval
