#include "stuffed/core/rng.h"

#include <cmath>
#include <numbers>

namespace stuffed {

namespace {
// SplitMix64 (Steele, Lea, Flood 2014): a Weyl sequence through a 64-bit mixer.
constexpr uint64_t kWeyl = 0x9e3779b97f4a7c15;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
}  // namespace

Rng::Rng(uint64_t seed, std::string_view key) : state_(mix(seed + kWeyl)) {
  for (const char c : key)
    state_ = mix(state_ + kWeyl + static_cast<unsigned char>(c));
}

uint64_t Rng::next() {
  return mix(state_ += kWeyl);
}

uint64_t Rng::below(uint64_t bound) {
  const uint64_t reject_below =
      (0 - bound) % bound;  // 2^64 mod bound: what would fall on some values once more
  uint64_t draw = next();
  while (draw < reject_below)
    draw = next();
  return draw % bound;
}

double Rng::uniform() {
  return static_cast<double>(next() >> 11) * 0x1p-53;
}

double Rng::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));  // 1 - u is in (0, 1]
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

}  // namespace stuffed
