// Curves through points of which some are known only to lie beyond a bound.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>

namespace stuffed::eval::fitting {

enum class Censored { No, AtMost, AtLeast };

/// A value y at x; or, censored, a bound: the value is at most, or at least, y.
struct Observation {
  double x = 0, y = 0;
  Censored censored = Censored::No;
};

/// y = slope x + intercept, with normal deviations.
struct Line {
  double slope = 0, intercept = 0;
  double deviation = 0;  // standard deviation by maximum likelihood: sqrt(RSS / n) of least squares
  double log_likelihood = 0;  // infinite of a line without deviations

  double operator()(double x) const { return slope * x + intercept; }
};

/// The line of the greatest likelihood (Tobin 1958): a value has the density of its deviation, a
/// bound the probability to lie on its side. Without bounds that is least squares. Newton's method
/// in (slope, intercept, 1) / deviation, where the likelihood is concave (Olsen 1978).
/// Nothing if fewer than two x have values.
std::optional<Line> fit_line(std::span<const Observation> points);

/// y = a (c^x - 1) + b, with normal deviations.
struct Exponential {
  double a = 0, c = 1, b = 0;
  double deviation = 0, log_likelihood = 0;

  double operator()(double x) const;
};

/// The exponential of the greatest likelihood. For any c it is a line in c^x, so that c alone is
/// searched for: on a grid of log c over 60 / (the range of x) to either side, then by golden
/// sections about the best.
/// Nothing if fewer than three x have values, or if no c within the grid is better than its ends:
/// the points then step, and no curve of this form is the best.
std::optional<Exponential> fit_exponential(std::span<const Observation> points);

}  // namespace stuffed::eval::fitting
