#include "src/eval/fit/laws.h"

#include <cmath>

namespace stuffed::eval::fitting {

double Curve::operator()(double x) const {
  return law == Law::Forget ? a * x + b : a * std::expm1(x * std::log(c)) + b;
}

std::map<std::string, double> Curve::coefficients() const {
  if (law == Law::Forget)
    return {{"a", a}, {"b", b}};
  return {{"a", a}, {"b", b}, {"c", c}};
}

const char* form_of(Law law) {
  return law == Law::Forget ? "T = a S + b" : "T = a (c^S - 1) + b";
}

int64_t unknowns(Law law) {
  return law == Law::Forget ? 2 : 3;
}

std::optional<Curve> fit_curve(Law law, std::span<const Observation> points) {
  if (law == Law::Forget) {
    const std::optional<Line> line = fit_line(points);
    if (!line)
      return {};
    return Curve{.law = law, .a = line->slope, .b = line->intercept, .deviation = line->deviation};
  }
  const std::optional<Exponential> found = fit_exponential(points);
  if (!found)
    return {};
  return Curve{
      .law = law, .a = found->a, .b = found->b, .c = found->c, .deviation = found->deviation};
}

Curve paper_curve(Law law) {
  return law == Law::Forget ? Curve{.law = law, .a = 5.172, .b = -4.469}
                            : Curve{.law = law, .a = 4.756, .b = -0.742, .c = 1.365};
}

const std::vector<Observation>& paper_forget_points() {
  static const std::vector<Observation> kPoints = {{.x = 0, .y = 0},     {.x = 1.10, .y = 1},
                                                   {.x = 1.62, .y = 2},  {.x = 2.40, .y = 8},
                                                   {.x = 4.78, .y = 16}, {.x = 12.88, .y = 64}};
  return kPoints;
}

}  // namespace stuffed::eval::fitting
