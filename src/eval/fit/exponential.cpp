// An exponential by likelihood: a line in c^x for each c.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <set>
#include <vector>

#include "src/eval/fit/regression.h"

namespace stuffed::eval::fitting {

namespace {

constexpr double kMostExponent = 60;  // of the exponent over the range of x: e^60
constexpr int kGrid = 240;            // places of log c
constexpr int kSections = 80;
constexpr double kGain = 1e-9;  // of a logarithm of likelihoods: what is less may be rounding

/// The points with x as (e^(rate (x - from)) - 1) / rate, which at rate 0 is x - from. `from` is the
/// end at which the exponential is greatest, so that it is at most 1.
class Profile {
 public:
  explicit Profile(std::span<const Observation> points) : points_(points.begin(), points.end()) {
    const auto [least, most] = std::ranges::minmax(points, {}, &Observation::x);
    least_ = least.x;
    most_ = most.x;
  }
  double range() const { return most_ - least_; }

  /// The best line at this rate; its likelihood. There is one, as two x have values.
  Line line(double rate) const {
    std::vector<Observation> bent = points_;
    for (Observation& point : bent)
      point.x = bend(rate, point.x - from(rate));
    const std::optional<Line> found = fit_line(bent);
    return found ? *found : Line{.log_likelihood = -std::numeric_limits<double>::infinity()};
  }
  double likelihood(double rate) const { return line(rate).log_likelihood; }

  Exponential curve(double rate) const {
    const Line best = line(rate);
    const double a = best.slope / rate * std::exp(-rate * from(rate));
    return {.a = a,
            .c = std::exp(rate),
            .b = best.intercept - best.slope / rate + a,
            .deviation = best.deviation,
            .log_likelihood = best.log_likelihood};
  }

 private:
  static double bend(double rate, double x) { return rate == 0 ? x : std::expm1(rate * x) / rate; }
  double from(double rate) const { return rate > 0 ? most_ : least_; }

  std::vector<Observation> points_;
  double least_ = 0, most_ = 0;
};

/// The place of the greatest likelihood between two rates.
double golden_section(const Profile& profile, double low, double high) {
  constexpr double kPart = 1 - 1 / std::numbers::phi;
  double left = low + kPart * (high - low), right = high - kPart * (high - low);
  double at_left = profile.likelihood(left), at_right = profile.likelihood(right);
  for (int i = 0; i < kSections; ++i) {
    if (at_left >= at_right) {
      high = right;
      right = left;
      at_right = at_left;
      at_left = profile.likelihood(left = low + kPart * (high - low));
    } else {
      low = left;
      left = right;
      at_left = at_right;
      at_right = profile.likelihood(right = high - kPart * (high - low));
    }
  }
  return at_left >= at_right ? left : right;
}

}  // namespace

double Exponential::operator()(double x) const {
  return a * std::expm1(x * std::log(c)) + b;
}

std::optional<Exponential> fit_exponential(std::span<const Observation> points) {
  std::set<double> places;
  for (const Observation& point : points)
    if (point.censored == Censored::No)
      places.insert(point.x);
  if (places.size() < 3)
    return {};
  const Profile profile(points);
  const double step = 2 * kMostExponent / profile.range() / kGrid;
  const auto rate_at = [step](int i) { return (i - kGrid / 2) * step; };
  std::vector<double> likelihoods;
  for (int i = 0; i <= kGrid; ++i)
    likelihoods.push_back(profile.likelihood(rate_at(i)));
  const auto best = static_cast<int>(std::ranges::max_element(likelihoods) - likelihoods.begin());
  const double ends = std::max(likelihoods.front(), likelihoods.back());
  if (!(likelihoods[static_cast<size_t>(best)] > ends + kGain))
    return {};
  const double rate = golden_section(profile, rate_at(best - 1), rate_at(best + 1));
  return rate == 0 ? std::nullopt : std::optional(profile.curve(rate));
}

}  // namespace stuffed::eval::fitting
