// A line by likelihood.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "src/eval/fit/normal.h"
#include "src/eval/fit/regression.h"

namespace stuffed::eval::fitting {

namespace {

using Vector = std::array<double, 3>;  // slope, intercept and 1, each over the deviation
using Matrix = std::array<Vector, 3>;

constexpr int kMostSteps = 200;
constexpr double kLastGain = 1e-12;  // of a step whose error, squared by it, is rounding
constexpr double kExact = 1e-24;     // of squared deviations over squares of y: rounding alone

double dot(const Vector& a, const Vector& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/// x and y about their means, in units of their spread.
struct Scale {
  double x_middle = 0, x_unit = 1, y_middle = 0, y_unit = 1;

  explicit Scale(std::span<const Observation> points) {
    const auto n = static_cast<double>(points.size());
    for (const Observation& point : points) {
      x_middle += point.x / n;
      y_middle += point.y / n;
    }
    double x_squares = 0, y_squares = 0;
    for (const Observation& point : points) {
      x_squares += (point.x - x_middle) * (point.x - x_middle) / n;
      y_squares += (point.y - y_middle) * (point.y - y_middle) / n;
    }
    x_unit = x_squares > 0 ? std::sqrt(x_squares) : 1;
    y_unit = y_squares > 0 ? std::sqrt(y_squares) : 1;
  }
  Observation operator()(const Observation& point) const {
    return {.x = (point.x - x_middle) / x_unit,
            .y = (point.y - y_middle) / y_unit,
            .censored = point.censored};
  }
  /// A line through scaled points as one through the points themselves.
  Line back(const Line& line, double values) const {
    const double slope = line.slope * y_unit / x_unit;
    return {.slope = slope,
            .intercept = y_middle + y_unit * line.intercept - slope * x_middle,
            .deviation = y_unit * line.deviation,
            .log_likelihood = line.log_likelihood - values * std::log(y_unit)};
  }
};

/// How far a point is on the wrong side of what it says.
double miss(const Observation& point, const Line& line) {
  const double above = point.y - line(point.x);
  if (point.censored == Censored::AtMost)
    return std::min(0.0, above);
  return point.censored == Censored::AtLeast ? std::max(0.0, above) : above;
}

/// By the values alone; nothing if they are at one x.
std::optional<Line> least_squares(std::span<const Observation> points) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (const Observation& point : points)
    if (point.censored == Censored::No) {
      ++n;
      x += point.x;
      y += point.y;
    }
  for (const Observation& point : points)
    if (point.censored == Censored::No) {
      xx += (point.x - x / n) * (point.x - x / n);
      xy += (point.x - x / n) * (point.y - y / n);
    }
  if (n < 2 || xx < 1e-20 * n)
    return {};
  const double slope = xy / xx;
  return Line{.slope = slope, .intercept = (y - slope * x) / n};
}

/// The logarithm of the likelihood, its gradient and its Hessian.
struct Likelihood {
  double value = 0;
  Vector gradient = {};
  Matrix hessian = {};

  Likelihood(std::span<const Observation> points, const Vector& at) {
    for (const Observation& point : points)
      point.censored == Censored::No ? add_value(point, at) : add_bound(point, at);
  }

 private:
  void add(const Vector& direction, double first, double second) {
    for (size_t i = 0; i < 3; ++i) {
      gradient[i] += first * direction[i];
      for (size_t j = 0; j < 3; ++j)
        hessian[i][j] += second * direction[i] * direction[j];
    }
  }
  void add_value(const Observation& point, const Vector& at) {
    const Vector direction = {-point.x, -1, point.y};
    const double z = dot(direction, at);
    value += std::log(at[2]) - z * z / 2 - 0.5 * std::log(2 * std::numbers::pi);
    add(direction, -z, -1);
    gradient[2] += 1 / at[2];
    hessian[2][2] -= 1 / (at[2] * at[2]);
  }
  void add_bound(const Observation& point, const Vector& at) {
    const double sign = point.censored == Censored::AtMost ? 1 : -1;
    const Vector direction = {-sign * point.x, -sign, sign * point.y};
    const double z = dot(direction, at), hazard = normal_hazard(z);
    value += log_normal_below(z);
    add(direction, hazard, -hazard * (z + hazard));
  }
};

/// Of a symmetric matrix that is negative definite: elimination needs no pivots.
Vector solve(Matrix matrix, Vector right) {
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = i + 1; j < 3; ++j) {
      const double factor = matrix[j][i] / matrix[i][i];
      for (size_t k = i; k < 3; ++k)
        matrix[j][k] -= factor * matrix[i][k];
      right[j] -= factor * right[i];
    }
  for (size_t i = 3; i-- > 0;) {
    for (size_t k = i + 1; k < 3; ++k)
      right[i] -= matrix[i][k] * right[k];
    right[i] /= matrix[i][i];
  }
  return right;
}

/// Newton's method, its steps halved until they gain.
Vector climb(std::span<const Observation> points, Vector at) {
  Likelihood here(points, at);
  for (int step = 0; step < kMostSteps; ++step) {
    const Vector move = solve(here.hessian, here.gradient);  // minus Newton's step
    const double gain = -dot(move, here.gradient);           // twice what a parabola would gain
    double share = 1;
    for (; share > 1e-12; share /= 2) {
      const Vector next = {at[0] - share * move[0], at[1] - share * move[1],
                           at[2] - share * move[2]};
      if (next[2] <= 0)
        continue;
      const Likelihood there(points, next);
      if (there.value >= here.value) {
        at = next;
        here = there;
        break;
      }
    }
    if (!(gain > kLastGain) || share <= 1e-12)
      break;
  }
  return at;
}

}  // namespace

std::optional<Line> fit_line(std::span<const Observation> points) {
  const Scale scale(points);
  std::vector<Observation> scaled;
  for (const Observation& point : points)
    scaled.push_back(scale(point));
  std::optional<Line> line = least_squares(scaled);
  if (!line)
    return {};
  double squares = 0, values = 0;
  bool is_bound = false;
  for (const Observation& point : scaled) {
    squares += miss(point, *line) * miss(point, *line);
    values += point.censored == Censored::No;
    is_bound = is_bound || point.censored != Censored::No;
  }
  line->deviation = std::sqrt(squares / values);
  if (squares <= kExact * values) {
    line->deviation = 0;
    line->log_likelihood = std::numeric_limits<double>::infinity();
  } else if (!is_bound) {
    line->log_likelihood =
        -values * (std::log(line->deviation) + 0.5 * std::log(2 * std::numbers::pi) + 0.5);
  } else {
    const double precision = 1 / line->deviation;
    const Vector best =
        climb(scaled, {line->slope * precision, line->intercept * precision, precision});
    *line = {.slope = best[0] / best[2],
             .intercept = best[1] / best[2],
             .deviation = 1 / best[2],
             .log_likelihood = Likelihood(scaled, best).value};
  }
  return scale.back(*line, values);
}

}  // namespace stuffed::eval::fitting
