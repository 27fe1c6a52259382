// The normal distribution far into its tails, where a censored point may lie.
#pragma once

namespace stuffed::eval::fitting {

/// log P(Z <= z) of a standard normal Z.
double log_normal_below(double z);

/// Its derivative: the density at z over P(Z <= z) (the inverse of Mills' ratio).
double normal_hazard(double z);

}  // namespace stuffed::eval::fitting
