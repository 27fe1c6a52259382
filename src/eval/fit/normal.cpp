#include "src/eval/fit/normal.h"

#include <cmath>
#include <numbers>

namespace stuffed::eval::fitting {

namespace {

// Below it erfc comes near the smallest double. There the series has an error of 105 / z^8.
constexpr double kTail = -30;

const double kLogRootTwoPi = 0.5 * std::log(2 * std::numbers::pi);

}  // namespace

double log_normal_below(double z) {
  if (z > kTail)
    return std::log(0.5 * std::erfc(-z / std::numbers::sqrt2));
  const double inverse = 1 / (z * z);
  return -z * z / 2 - kLogRootTwoPi - std::log(-z) +
         std::log1p(-inverse * (1 - 3 * inverse * (1 - 5 * inverse)));
}

double normal_hazard(double z) {
  return std::exp(-z * z / 2 - kLogRootTwoPi - log_normal_below(z));
}

}  // namespace stuffed::eval::fitting
