// 95 % intervals of paired differences.
#pragma once
#include <cstdint>
#include <span>

namespace stuffed::eval::comparing {

struct Interval95 {
  double low, high;
};

/// The 97.5 % quantile of Student's t.
/// `degrees`: of freedom, at least 1
double student_quantile(double degrees);

/// Of sum(differences) / sum(weights): pairs differ by `differences` in all, over `weights` tokens
/// each. Student's t over the linearised ratio; NaN for fewer than two pairs.
Interval95 interval_of_ratio(std::span<const double> differences, std::span<const double> weights);

/// Of the mean.
Interval95 interval_of_mean(std::span<const double> differences);

/// How often trials succeed in B less how often in A, by Newcombe's method 10 (Wilson's intervals,
/// correlated): has a width where no trial changed, too. `both`, `only_a`, `only_b`, `neither` count
/// trials by where they succeed.
Interval95 interval_of_shares(int64_t both, int64_t only_a, int64_t only_b, int64_t neither);

}  // namespace stuffed::eval::comparing
