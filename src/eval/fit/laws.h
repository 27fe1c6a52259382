// The two laws of arXiv:2410.07145 as curves: S in millions of state elements, T in thousands of
// tokens.
//   forget  T = a S + b
//   recall  T = a (c^S - 1) + b
#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/eval/fit/regression.h"
#include "stuffed/eval/fit.h"

namespace stuffed::eval::fitting {

inline constexpr double kElements = 1e6;  // in a unit of S
inline constexpr double kTokens = 1e3;    // in a unit of T: the paper's K

struct Curve {
  Law law = Law::Forget;
  double a = 0, b = 0, c = 1;  // c of recall alone
  double deviation = 0;

  double operator()(double x) const;
  /// By their letters.
  std::map<std::string, double> coefficients() const;
};

/// "T = a S + b"
const char* form_of(Law law);

/// Coefficients, and so the fewest state sizes.
int64_t unknowns(Law law);

/// Nothing if the points decide none: see fit_line() and fit_exponential().
std::optional<Curve> fit_curve(Law law, std::span<const Observation> points);

/// What the paper prints.
Curve paper_curve(Law law);

/// The points of the paper's figure of the forget threshold, read off the picture to 0.02 of either
/// unit; (0, 0) is among them.
const std::vector<Observation>& paper_forget_points();

}  // namespace stuffed::eval::fitting
