#include "src/eval/fit/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "stuffed/core/rng.h"

namespace stuffed::eval::fitting {

namespace {

constexpr double kTail = 0.025;

using Sizes = std::vector<std::vector<Observation>>;

Sizes by_size(const std::vector<Observation>& points) {
  std::map<double, std::vector<Observation>> sizes;
  for (const Observation& point : points)
    sizes[point.x].push_back(point);
  Sizes found;
  for (auto& [unused, of_size] : sizes)
    found.push_back(std::move(of_size));
  return found;
}

std::vector<Observation> drawn_from(const Sizes& sizes, Rng& rng) {
  std::vector<Observation> drawn;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::vector<Observation>& seeds = sizes[rng.below(sizes.size())];
    for (size_t j = 0; j < seeds.size(); ++j)
      drawn.push_back(seeds[rng.below(seeds.size())]);
  }
  return drawn;
}

/// Of sorted numbers, between the nearest two.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - std::floor(place));
}

}  // namespace

Bootstrap draw_curves(Law law,
                      const std::vector<Observation>& points,
                      int64_t draws,
                      uint64_t seed,
                      const std::function<void(int64_t done)>& on_progress) {
  const Sizes sizes = by_size(points);
  Bootstrap out{.draws = draws};
  for (int64_t draw = 0; draw < draws; ++draw) {
    Rng rng(seed, fmt::format("bootstrap/{}", draw));
    if (const std::optional<Curve> curve = fit_curve(law, drawn_from(sizes, rng)))
      out.curves.push_back(*curve);
    on_progress(draw + 1);
  }
  return out;
}

QuantileInterval interval_of(const Bootstrap& bootstrap,
                             const std::function<double(const Curve&)>& number) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  if (bootstrap.draws == 0 || 2 * std::ssize(bootstrap.curves) < bootstrap.draws)
    return {kNone, kNone};
  std::vector<double> values;
  for (const Curve& curve : bootstrap.curves)
    values.push_back(number(curve));
  std::ranges::sort(values);
  return {quantile(values, kTail), quantile(values, 1 - kTail)};
}

}  // namespace stuffed::eval::fitting
