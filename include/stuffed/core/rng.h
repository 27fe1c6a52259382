// Randomness as a function of (seed, key, index): no draw depends on what was drawn before, so
// neither resuming nor reordering changes a sample.
#pragma once
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace stuffed {

class Rng {
 public:
  Rng(uint64_t seed, std::string_view key);
  uint64_t next();                 // 64 uniform bits
  uint64_t below(uint64_t bound);  // uniform in [0, bound), without bias
  double uniform();                // [0, 1)
  double normal();                 // standard normal

 private:
  uint64_t state_;
};

/// Every order is as likely as any other.
template <class T>
void shuffle(Rng& rng, std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i)
    std::swap(items[i - 1], items[rng.below(i)]);
}

}  // namespace stuffed
