#include "src/eval/compare/intervals.h"

#include <cmath>
#include <limits>
#include <vector>

#include "stuffed/eval/passkey.h"

namespace stuffed::eval::comparing {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// The continued fraction of the incomplete beta function, by Lentz's method.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  double c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (std::abs(d) < kTiny ? kTiny : d);
  double fraction = d;
  for (int m = 1; m < 500; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double step = 1;
    for (const double term : {even, odd}) {
      d = 1 + term * d;
      c = 1 + term / c;
      d = 1 / (std::abs(d) < kTiny ? kTiny : d);
      c = std::abs(c) < kTiny ? kTiny : c;
      step = c * d;
      fraction *= step;
    }
    if (std::abs(step - 1) < 1e-15)
      break;
  }
  return fraction;
}

/// The regularised incomplete beta function I_x(a, b).
double incomplete_beta(double a, double b, double x) {
  if (x <= 0 || x >= 1)
    return x <= 0 ? 0 : 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  return x < (a + 1) / (a + b + 2) ? front * beta_fraction(a, b, x) / a
                                   : 1 - front * beta_fraction(b, a, 1 - x) / b;
}

/// P(T > t) for t >= 0.
double student_tail(double t, double degrees) {
  return 0.5 * incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t));
}

}  // namespace

double student_quantile(double degrees) {
  double low = 0, high = 13;  // 12.71 at one degree
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (student_tail(middle, degrees) > 0.025 ? low : high) = middle;
  }
  return (low + high) / 2;
}

Interval95 interval_of_ratio(std::span<const double> differences, std::span<const double> weights) {
  const auto n = static_cast<double>(differences.size());
  if (differences.size() < 2)
    return {kNone, kNone};
  double sum = 0, weight = 0, squares = 0;
  for (size_t i = 0; i < differences.size(); ++i) {
    sum += differences[i];
    weight += weights[i];
  }
  const double ratio = sum / weight;
  for (size_t i = 0; i < differences.size(); ++i)
    squares += (differences[i] - ratio * weights[i]) * (differences[i] - ratio * weights[i]);
  const double half = student_quantile(n - 1) * std::sqrt(squares * n / (n - 1)) / weight;
  return {ratio - half, ratio + half};
}

Interval95 interval_of_mean(std::span<const double> differences) {
  return interval_of_ratio(differences, std::vector<double>(differences.size(), 1.0));
}

Interval95 interval_of_shares(int64_t both, int64_t only_a, int64_t only_b, int64_t neither) {
  const int64_t trials = both + only_a + only_b + neither;
  if (trials == 0)
    return {kNone, kNone};
  const auto n = static_cast<double>(trials);
  const double a = static_cast<double>(both + only_a) / n,
               b = static_cast<double>(both + only_b) / n;
  const ProportionInterval of_a = wilson(both + only_a, trials),
                           of_b = wilson(both + only_b, trials);
  const double margins = static_cast<double>(both + only_a) *
                         static_cast<double>(only_b + neither) *
                         static_cast<double>(both + only_b) * static_cast<double>(only_a + neither);
  double excess = static_cast<double>(both) * static_cast<double>(neither) -
                  static_cast<double>(only_a) * static_cast<double>(only_b);
  if (excess > 0)
    excess = std::max(0.0, excess - n / 2);
  const double phi = margins > 0 ? excess / std::sqrt(margins) : 0;
  const auto width = [phi](double x, double y) {
    return std::sqrt(std::max(0.0, x * x - 2 * phi * x * y + y * y));
  };
  return {b - a - width(b - of_b.low, of_a.high - a), b - a + width(of_b.high - b, a - of_a.low)};
}

}  // namespace stuffed::eval::comparing
